"""The background loops of one coordinator, as one thing to start, wake and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from datetime import datetime

from bus.port import Bus, BusError
from coordinator.context import Context
from coordinator.loops.offers import Offers
from coordinator.loops.promoter import Promoter
from coordinator.loops.reaper import Reaper
from coordinator.loops.sweeper import Sweeper
from coordinator.store.queries import read_job
from runtime.loop import Service
from schemas.ids import JobKey
from schemas.job import Job
from schemas.projections import EventDoc

log = logging.getLogger(__name__)

FOREIGN_MAX = 10_000


class Loops:
    """`alone`: no other coordinator shares the store, so nothing is to be heard of others' commits."""

    def __init__(self, ctx: Context, bus: Bus, *, alone: bool) -> None:
        timers, clock = ctx.timers, ctx.clock
        self._ctx = ctx
        self._bus = bus
        self._alone = alone
        self._foreign: deque[JobKey] = deque(maxlen=FOREIGN_MAX)
        self.offers = Offers(ctx, bus)
        self.promoter = Promoter(ctx)
        self.sweeper = Sweeper(ctx)
        self._noted = Service("promoter-noted", self.promoter.run_noted, timers.promoter_s, clock)
        self._heard = Service("foreign-events", self._read_foreign, timers.sweeper_s, clock)
        self._services = [
            Service("reaper", Reaper(ctx).run_once, timers.reaper_s, clock),
            Service("promoter", self.promoter.run_once, timers.promoter_s, clock),
            Service("sweeper", self._sweep, timers.sweeper_s, clock),
            Service("event-stream", self._keep_stream, timers.sweeper_s, clock),
            self._noted,
            self._heard,
        ]
        if not alone:
            self._services.append(Service("ready-refresh", self._refresh_unheard, timers.ready_refresh_s, clock))
        ctx.capacity_changed = self.offers.seat_freed
        ctx.projector.listen(self.after_commit)
        ctx.projector.listen(self.offers.after_commit)

    async def start(self) -> None:
        await self.sweeper.run_once(self._ctx.clock.now())
        self.offers.start()
        for service in self._services:
            service.start()

    async def stop(self) -> None:
        await self.offers.stop()
        await asyncio.gather(*(service.stop() for service in self._services))

    def after_commit(self, job: Job, events: tuple[EventDoc, ...]) -> None:
        self.promoter.note(job, events)
        self._noted.wake()

    def heard_event(self, key: JobKey) -> None:
        """Another coordinator changed this job, or this one did and hears itself."""
        if not self._alone and (not self._foreign or self._foreign[-1] != key):
            self._foreign.append(key)
            self._heard.wake()

    async def _sweep(self, now: datetime) -> None:
        await self.sweeper.run_once(now)
        self.offers.seat_freed()  # whatever was missed: jobs that wait are looked at again

    async def _read_foreign(self, _now: datetime) -> int:
        read = 0
        while self._foreign:
            stored = await read_job(self._ctx.store, self._foreign.popleft())
            if stored is not None:
                self._ctx.ready.note(stored.job)
            read += 1
        return read

    async def _refresh_unheard(self, _now: datetime) -> None:
        """Without the bus nobody tells of others' commits: look, so that long-polls wake."""
        if not self._bus.connected:
            await self._ctx.ready.refresh(self._ctx.store)

    async def _keep_stream(self, _now: datetime) -> None:
        if self._bus.connected:
            with contextlib.suppress(BusError):
                await self._bus.ensure_event_stream()
