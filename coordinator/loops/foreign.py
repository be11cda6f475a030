"""Reads the jobs that other coordinators changed, as the bus tells of them, so that the index here follows."""

from __future__ import annotations

from collections import deque
from datetime import datetime

from coordinator.context import Context
from coordinator.store.queries import read_job
from schemas.ids import JobKey

HEARD_MAX = 10_000


class ForeignChanges:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._heard: deque[JobKey] = deque(maxlen=HEARD_MAX)

    def note(self, key: JobKey) -> bool:
        """Another coordinator changed this job, or this one did and hears itself. False: nothing is to be read."""
        if self._ctx.alone or (self._heard and self._heard[-1] == key):
            return False
        self._heard.append(key)
        return True

    async def run_once(self, _now: datetime) -> int:
        read = 0
        while self._heard:
            stored = await read_job(self._ctx.store, self._heard.popleft())
            if stored is not None:
                self._ctx.ready.note(stored.job)
            read += 1
        return read

    async def refresh_unheard(self, _now: datetime) -> None:
        """Without the bus nobody tells of others' commits: look, so that long-polls wake."""
        if not self._ctx.bus.connected:
            await self._ctx.ready.refresh(self._ctx.store)
