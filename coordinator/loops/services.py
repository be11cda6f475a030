"""The background loops of one coordinator, as one thing to start, wake and stop."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime

from bus.port import BusError
from coordinator.context import Context
from coordinator.loops.foreign import ForeignChanges
from coordinator.loops.offers import Offers
from coordinator.loops.promoter import Promoter
from coordinator.loops.reaper import Reaper
from coordinator.loops.sweeper import Sweeper
from runtime.loop import Service
from schemas.ids import JobKey
from schemas.job import Job
from schemas.projections import EventDoc


class Loops:
    def __init__(self, ctx: Context, offers: Offers) -> None:
        timers, clock = ctx.timers, ctx.clock
        self._ctx = ctx
        self._offers = offers
        self._promoter = Promoter(ctx)
        self._sweeper = Sweeper(ctx)
        self._foreign = ForeignChanges(ctx)
        self._noted = Service("promoter-noted", self._promoter.run_noted, timers.promoter_s, clock)
        self._heard = Service("foreign-events", self._foreign.run_once, timers.sweeper_s, clock)
        self._services = [
            Service("reaper", Reaper(ctx).run_once, timers.reaper_s, clock),
            Service("promoter", self._promoter.run_once, timers.promoter_s, clock),
            Service("sweeper", self._sweep, timers.sweeper_s, clock),
            Service("event-stream", self._keep_stream, timers.sweeper_s, clock),
            self._noted,
            self._heard,
        ]
        if not ctx.alone:
            refresh = self._foreign.refresh_unheard
            self._services.append(Service("ready-refresh", refresh, timers.ready_refresh_s, clock))

    async def start(self) -> None:
        await self._sweeper.run_once(self._ctx.clock.now())
        self._offers.start()
        for service in self._services:
            service.start()

    async def stop(self) -> None:
        await self._offers.stop()
        await asyncio.gather(*(service.stop() for service in self._services))

    def after_commit(self, job: Job, events: tuple[EventDoc, ...]) -> None:
        """What others may wait for is promoted at once rather than at the next interval."""
        self._promoter.note(job, events)
        self._noted.wake()

    def heard_event(self, key: JobKey) -> None:
        """A coordinator changed this job: this one reads it, unless it is alone."""
        if self._foreign.note(key):
            self._heard.wake()

    async def _sweep(self, now: datetime) -> None:
        await self._sweeper.run_once(now)
        self._offers.seat_freed()  # whatever was missed: jobs that wait are looked at again

    async def _keep_stream(self, _now: datetime) -> None:
        if self._ctx.bus.connected:
            with contextlib.suppress(BusError):
                await self._ctx.bus.ensure_event_stream()
