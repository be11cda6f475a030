"""Who asks: a bearer token of an operator or a factory, compared with the hashes in the store at every request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from coordinator.context import Context
from coordinator.http.app_state import context_of
from coordinator.store.port import OPERATORS, Address
from coordinator.store.queries import read_factory
from runtime.tokens import FACTORY, token_matches, token_parts
from schemas.errors import ErrorCode, FleetError
from schemas.factory import OperatorDoc
from schemas.ids import JobKey, check_id, check_name


@dataclass(frozen=True)
class Principal:
    """`products` None: every product (an operator of the whole fleet)."""

    kind: str
    id: str
    products: frozenset[str] | None

    @property
    def actor(self) -> str:
        return f"{'factory' if self.kind == FACTORY else 'operator'}:{self.id}"

    @property
    def only_product(self) -> str | None:
        return next(iter(self.products)) if self.products is not None and len(self.products) == 1 else None

    def checked_product(self, product_id: str) -> str:
        if self.products is not None and product_id not in self.products:
            raise FleetError(ErrorCode.FORBIDDEN, f"this token is not for product '{product_id}'")
        return product_id


UNAUTHORIZED = "send 'Authorization: Bearer TOKEN' with a valid token"


async def authenticated(ctx: Context, header: str | None, *, is_asking: bool = True) -> Principal:
    """Raises unauthorized. Not `is_asking`: somebody who asked before is looked at again, which is no sign of life."""
    scheme, _, token = (header or "").partition(" ")
    parts = token_parts(token.strip())
    if scheme.lower() != "bearer" or parts is None or not _are_names(parts.product_id, parts.id):
        raise FleetError(ErrorCode.UNAUTHORIZED, UNAUTHORIZED)
    if parts.kind == FACTORY:
        found = await read_factory(ctx.store, parts.product_id, parts.id)
        if found is None or not token_matches(token.strip(), found.factory.token_hashes):
            raise FleetError(ErrorCode.UNAUTHORIZED, UNAUTHORIZED)
        entry = ctx.roster.get(parts.id)
        if entry is not None and entry.doc.product_id != parts.product_id:
            raise FleetError(  # ids of factories are the fleet's, not a product's: the handlers know one of a name
                ErrorCode.FORBIDDEN,
                f"another product has enrolled a factory {parts.id}: enrol this one by another name",
            )
        if is_asking:
            ctx.roster.heard(parts.id)
        return Principal(parts.kind, parts.id, frozenset(found.factory.products))
    stored = await ctx.store.read(Address(OPERATORS, parts.product_id, parts.id))
    operator = OperatorDoc.model_validate(stored.doc) if stored else None
    if operator is None or not token_matches(token.strip(), [operator.token_hash]):
        raise FleetError(ErrorCode.UNAUTHORIZED, UNAUTHORIZED)
    return Principal(parts.kind, parts.id, frozenset(operator.products) or None)


def _are_names(*words: str) -> bool:
    """A stranger may write anything into a token: only an id that could exist is looked up in the store."""
    try:
        return all(check_name(word) for word in words)
    except ValueError:
        return False


async def anybody(request: Request) -> Principal:
    return await authenticated(context_of(request), request.headers.get("authorization"))


async def only_operator(request: Request) -> Principal:
    principal = await anybody(request)
    if principal.kind == FACTORY:
        raise FleetError(ErrorCode.FORBIDDEN, "a factory's token does not allow what operators do")
    return principal


async def only_factory(request: Request) -> Principal:
    principal = await anybody(request)
    if principal.kind != FACTORY:
        raise FleetError(ErrorCode.FORBIDDEN, "an operator's token does not allow what factories do")
    return principal


Anybody = Annotated[Principal, Depends(anybody)]
Operator = Annotated[Principal, Depends(only_operator)]
Factory = Annotated[Principal, Depends(only_factory)]


def product_of(request: Request, principal: Principal) -> str:
    """`x-product-id`, else the token's only product. Raises invalid_request or forbidden."""
    named = request.headers.get("x-product-id") or principal.only_product
    if named is None:
        raise FleetError(ErrorCode.INVALID_REQUEST, "this token is for several products: name one in x-product-id")
    return principal.checked_product(checked(check_name, named))


def products_of(request: Request, principal: Principal) -> frozenset[str] | None:
    """All that the token is for (None: every product), or the one that `x-product-id` names."""
    if request.headers.get("x-product-id"):
        return frozenset({product_of(request, principal)})
    return principal.products


def job_key(request: Request, principal: Principal, job_id: str) -> JobKey:
    return JobKey(product_of(request, principal), checked(check_id, job_id))


def checked(check: object, value: str) -> str:
    assert callable(check)
    try:
        return str(check(value))
    except ValueError as error:
        raise FleetError(ErrorCode.INVALID_REQUEST, str(error)) from None
