"""Who takes part in a one-machine fleet, and their secrets: files of mode 0600 in a folder of mode 0700.

What is made once is kept, so that the next start finds the same identities. Only hashes and public keys go to the
coordinator and the broker.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nkeys
import orjson

from bus.server import BrokerConfig, BrokerUser, create_nkey
from runtime.tokens import FACTORY, OPERATOR, mint_token, token_hash

OPERATOR_ID = "operator"
SANDBOXES = ("sandbox-veil", "sandbox-strict")  # a factory offers those that work on its machine


@dataclass(frozen=True)
class Member:
    """A factory of the fleet."""

    id: str
    capabilities: tuple[str, ...] = ()
    seats: int = 1


class Secrets:
    def __init__(
        self, directory: Path, product_id: str, members: tuple[Member, ...], entitled: tuple[str, ...] = ()
    ) -> None:
        self._directory = directory
        self._product_id = product_id
        self._members = members
        self._entitled = (*SANDBOXES, *entitled)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        directory.chmod(0o700)

    @property
    def operator_token_file(self) -> Path:
        return self._kept("operator.token", lambda: mint_token(OPERATOR, self._product_id, OPERATOR_ID))

    @property
    def coordinator_seed_file(self) -> Path:
        return self._kept("coordinator.nkey", lambda: create_nkey().seed)

    def token_file(self, factory_id: str) -> Path:
        return self._kept(f"{factory_id}.token", lambda: mint_token(FACTORY, self._product_id, factory_id))

    def seed_file(self, factory_id: str) -> Path:
        return self._kept(f"{factory_id}.nkey", lambda: create_nkey().seed)

    def write_enrolments(self) -> Path:
        """The file that the coordinator is started with."""
        factories = [
            {
                "id": member.id,
                "productId": self._product_id,
                "products": [self._product_id],
                "capabilities": list(self._capabilities(member)),
                "tokenHash": token_hash(self.token_file(member.id).read_text().strip()),
                "busKey": _public(self.seed_file(member.id)),
            }
            for member in self._members
        ]
        operator = {
            "id": OPERATOR_ID,
            "productId": self._product_id,
            "tokenHash": token_hash(self.operator_token_file.read_text().strip()),
        }
        path = self._directory / "enrolments.json"
        _write_private(path, orjson.dumps({"operators": [operator], "factories": factories}))
        return path

    def _capabilities(self, member: Member) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*member.capabilities, *self._entitled)))

    def broker_config(self) -> BrokerConfig:
        system = self._kept("system.nkey", lambda: create_nkey().seed)
        users = tuple(
            BrokerUser(member.id, _public(self.seed_file(member.id)), (self._product_id,), self._capabilities(member))
            for member in self._members
        )
        return BrokerConfig(_public(self.coordinator_seed_file), _public(system), users)

    def _kept(self, name: str, make: Callable[[], str]) -> Path:
        path = self._directory / name
        if not path.exists():
            _write_private(path, make().encode() + b"\n")
        return path


def _public(seed_file: Path) -> str:
    public: bytes = nkeys.from_seed(bytearray(seed_file.read_text().strip().encode())).public_key
    return public.decode()


def _write_private(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    part.replace(path)
