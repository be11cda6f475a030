"""One link out of two: the bus while it is there, REST when it does not answer, and back.

A request that the bus left unanswered is repeated over REST at once, with the same ids, so that it takes effect once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from factory.link.port import Link, Unanswered
from schemas.errors import FleetError
from schemas.factory import Transport

log = logging.getLogger(__name__)


class FailoverLink:
    def __init__(self, bus: Link, rest: Link) -> None:
        self._bus = bus
        self._rest = rest
        self._listeners: list[Callable[[Transport], None]] = []
        self._last = self.transport
        self._answered = False

    @property
    def connected(self) -> bool:
        return True

    @property
    def settled(self) -> bool:
        """Whether its transport has proved itself: where the bus has just come, coordinators may not be there yet."""
        return self._answered or self.transport is Transport.REST

    @property
    def transport(self) -> Transport:
        return Transport.BUS if self._bus.connected else Transport.REST

    def on_change(self, listener: Callable[[Transport], None]) -> None:
        self._listeners.append(listener)

    def bus_changed(self, _connected: bool) -> None:
        if self.transport is not self._last:
            self._last = self.transport
            self._answered = False
            log.info("transport: %s", self._last)
            for listener in self._listeners:
                listener(self._last)

    async def call(self, op: str, message: dict[str, Any]) -> dict[str, Any]:
        if self._bus.connected and not message.get("waitS"):
            try:
                answer = await self._bus.call(op, message)
            except FleetError:
                self._answered = True
                raise
            except Unanswered as error:
                self._answered = False
                log.info("%s was not answered on the bus (%s): once more over REST", op, error)
            else:
                self._answered = True
                return answer
        return await self._rest.call(op, message)
