"""Writes down what a client asks and what becomes of it, wherever the client runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import orjson

from bus.port import Bus
from factory.link.bus import BusLink
from factory.link.port import Unanswered
from runtime.settings import Timers
from schemas.errors import FleetError

Message = dict[str, Any]


class Note(Protocol):
    """Adds a record to a history, at the moment of the call (see `chaos.history.Record` for kinds)."""

    def __call__(self, kind: str, who: str, **data: Any) -> None: ...


class AskRecorder:
    """`prefix` tells its asks from those of the other scribes of one history."""

    def __init__(self, note: Note, prefix: str = "") -> None:
        self._note = note
        self._prefix = prefix
        self._asks = 0

    async def noted(
        self, who: str, op: str, over: str, message: Message, call: Callable[[], Awaitable[Message]]
    ) -> Message:
        self._asks += 1
        ask = f"{self._prefix}{self._asks}"
        self._note("asked", who, ask=ask, op=op, over=over, to=None, message=through_json(message))
        try:
            answer = await call()
        except FleetError as error:
            self._note("refused", who, ask=ask, error=through_json(error.to_doc()))
            raise
        except Unanswered as error:
            self._note("unanswered", who, ask=ask, why=str(error))
            raise
        except asyncio.CancelledError:
            self._note("unanswered", who, ask=ask, why="given up")
            raise
        self._note("answered", who, ask=ask, answer=through_json(answer))
        return answer


def through_json(message: Any) -> Message:
    """As it comes out of the wire, so that nothing is shared by reference."""
    copied: Message = orjson.loads(orjson.dumps(message))
    return copied


def told_timers(timers: Timers) -> dict[str, float]:
    """Those that a checker goes by, as the history's first record tells them."""
    return {
        "leaseTtlS": timers.lease_ttl_s,
        "heartbeatS": timers.heartbeat_s,
        "reaperS": timers.reaper_s,
        "skewS": timers.skew_s,
        "grantStartS": timers.grant_start_s,
        "trustMarginS": timers.trust_margin_s,
        "stopDeadlineS": timers.stop_deadline_s,
    }


class NotedBusLink(BusLink):
    def __init__(self, bus: Bus, factory_id: str, timeout_s: float, ask_recorder: AskRecorder) -> None:
        super().__init__(bus, factory_id, timeout_s)
        self._who = f"factory:{factory_id}"
        self._ask_recorder = ask_recorder

    async def call(self, op: str, message: Message) -> Message:
        return await self._ask_recorder.noted(
            self._who, op, "bus", message, lambda: super(NotedBusLink, self).call(op, message)
        )
