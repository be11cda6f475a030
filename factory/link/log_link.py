"""Logs over the bus while a term lives there, over REST else. Either way each chunk is acknowledged."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import orjson

from bus.port import Bus, BusError
from bus.subjects import log_subject
from schemas.messages import LogChunk, LogHeard


class LogLink:
    """`over_rest` sends one chunk and gives how far it was heard."""

    def __init__(
        self, bus: Bus, factory_id: str, timeout_s: float, over_rest: Callable[[LogChunk], Awaitable[int]]
    ) -> None:
        self._bus = bus
        self._factory_id = factory_id
        self._timeout_s = timeout_s
        self._over_rest = over_rest

    async def send(self, chunk: LogChunk, *, live: bool) -> int:
        """How many bytes of the log were heard. On the bus, coordinators answer only for terms that they know as held:
        what comes behind the end of a term goes over REST at once.
        """
        if self._bus.connected and live:
            subject = log_subject(chunk.product_id, self._factory_id, chunk.job_id)
            with contextlib.suppress(BusError, ValueError):
                answer = await self._bus.request(subject, orjson.dumps(chunk.to_doc()), self._timeout_s)
                return LogHeard.model_validate_json(answer).heard
        return await self._over_rest(chunk)
