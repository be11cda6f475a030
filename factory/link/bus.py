"""Requests over the bus."""

from __future__ import annotations

from typing import Any

import orjson

from bus.port import Bus, BusError
from bus.subjects import rpc_subject
from factory.link.port import Unanswered
from schemas.errors import ErrorCode, FleetError


class BusLink:
    def __init__(self, bus: Bus, factory_id: str, timeout_s: float) -> None:
        self._bus = bus
        self._factory_id = factory_id
        self._timeout_s = timeout_s

    @property
    def connected(self) -> bool:
        return self._bus.connected

    async def call(self, op: str, message: dict[str, Any]) -> dict[str, Any]:
        subject = rpc_subject(self._factory_id, op)
        try:
            answer = orjson.loads(await self._bus.request(subject, orjson.dumps(message), self._timeout_s))
        except BusError as error:
            raise Unanswered(str(error)) from error
        if answer.get("ok"):
            return dict(answer)
        refusal = FleetError.from_doc(answer.get("error") or {})
        if refusal.code in (ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL):
            raise Unanswered(refusal.message)
        raise refusal
