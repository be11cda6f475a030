"""One link out of two: the bus while it is there, REST when it does not answer, and back.

A request that the bus left unanswered is repeated over REST at once, with the same ids, so that it takes effect once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from factory.link.bus import BusLink
from factory.link.port import Unanswered
from factory.link.rest import RestLink
from schemas.factory import Transport

log = logging.getLogger(__name__)


class FailoverLink:
    def __init__(self, bus: BusLink, rest: RestLink) -> None:
        self._bus = bus
        self._rest = rest
        self._told: list[Callable[[Transport], None]] = []
        self._last = self.transport

    @property
    def transport(self) -> Transport:
        return Transport.BUS if self._bus.connected else Transport.REST

    def on_change(self, listener: Callable[[Transport], None]) -> None:
        self._told.append(listener)

    def bus_changed(self, _connected: bool) -> None:
        if self.transport is not self._last:
            self._last = self.transport
            log.info("transport: %s", self._last)
            for listener in self._told:
                listener(self._last)

    async def call(self, op: str, message: dict[str, Any]) -> dict[str, Any]:
        if self._bus.connected and not message.get("waitS"):
            try:
                return await self._bus.call(op, message)
            except Unanswered as error:
                log.info("%s was not answered on the bus (%s): once more over REST", op, error)
        return await self._rest.call(op, message)
