"""Bearer tokens: `kind.product.id.secret`. Only the hash is stored; 160 random bits need no salt and no slow hash."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Literal, NamedTuple

Kind = Literal["gfo", "gff"]  # an operator's, a factory's
OPERATOR: Kind = "gfo"
FACTORY: Kind = "gff"
TOKEN_LENGTH_MAX = 300


class TokenParts(NamedTuple):
    """Who the token says it is for: worth nothing until its hash was compared."""

    kind: str
    product_id: str
    id: str


def mint_token(kind: Kind, product_id: str, owner_id: str) -> str:
    return f"{kind}.{product_id}.{owner_id}.{secrets.token_hex(20)}"


def token_parts(token: str) -> TokenParts | None:
    parts = token.split(".")
    if len(token) > TOKEN_LENGTH_MAX or len(parts) != 4 or parts[0] not in (OPERATOR, FACTORY):
        return None
    return TokenParts(*parts[:3])


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def token_matches(token: str, hashes: Iterable[str]) -> bool:
    """Compares in constant time, with every hash."""
    own = token_hash(token)
    return sum(hmac.compare_digest(own, known) for known in hashes) > 0
