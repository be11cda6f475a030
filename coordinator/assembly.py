"""One coordinator put together around an open store and a bus: its parts, and who hears what, in which order.

Services, simulations and tests are all made here. Nothing is handed over afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bus.port import Bus
from coordinator.context import Context
from coordinator.dispatch.precedence import PrecedenceTable
from coordinator.dispatch.ready import ReadyIndex
from coordinator.dispatch.roster import Roster
from coordinator.dispatch.waiters import Waiters
from coordinator.enrolment_file import Enrolments, apply
from coordinator.inbox import Inbox
from coordinator.loops.offers import Offers
from coordinator.loops.services import Loops
from coordinator.loops.vanished import Vanished
from coordinator.metrics import FleetMetrics
from coordinator.projector import Projector
from coordinator.publisher import Publisher
from coordinator.store.port import Store
from coordinator.term_logs import LogFiles
from coordinator.transact import Transactor
from coordinator.watchers import Watchers
from runtime.clock import Clock
from runtime.entropy import Entropy
from runtime.settings import Flags, Timers
from schemas.ids import JobKey

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Coordinator:
    """Made, and not running yet: see `running`."""

    ctx: Context
    offers: Offers
    loops: Loops
    inbox: Inbox
    vanished: Vanished
    metrics: FleetMetrics

    def close(self) -> None:
        """It is about to end: every call that is held open is answered now."""
        self.ctx.closing.set()
        self.ctx.waiters.dismiss()
        self.ctx.watchers.wake_all()


def assemble(
    store: Store,
    bus: Bus,
    logs: LogFiles,
    *,
    clock: Clock,
    entropy: Entropy,
    timers: Timers | None = None,
    flags: Flags | None = None,
    alone: bool = True,
) -> Coordinator:
    """`alone`: no other coordinator shares the store."""
    timers, flags = timers or Timers(), flags or Flags()
    projector, ready = Projector(store, timers.lease_ttl_s), ReadyIndex()
    roster, precedence = Roster(clock, ready, timers.down_after_s), PrecedenceTable()
    ctx = Context(
        store=store,
        bus=bus,
        clock=clock,
        entropy=entropy,
        timers=timers,
        flags=flags,
        alone=alone,
        projector=projector,
        transactor=Transactor(store, clock, entropy, projector, budgets=flags.budgets),
        ready=ready,
        roster=roster,
        precedence=precedence,
        waiters=Waiters(ready, roster, precedence, clock, timers.offer_round_s),
        publisher=Publisher(bus),
        watchers=Watchers(),
        logs=logs,
    )
    offers, vanished = Offers(ctx), Vanished(ctx)
    loops, metrics = Loops(ctx, offers), FleetMetrics(ctx, offers)

    def heard_event(key: JobKey) -> None:
        loops.heard_event(key)
        ctx.watchers.changed(key)

    def bus_came_or_went(up: bool) -> None:
        log.info("the bus is there" if up else "the bus is gone: REST goes on")
        if up:
            offers.seat_freed()
        ready.wake()

    # Who hears a commit of this process, in this order: what can be claimed is known before anybody is told of it.
    for hears_commit in (
        ready.after_commit,
        roster.after_commit,
        loops.after_commit,
        offers.after_commit,
        ctx.publisher.after_commit,
        ctx.watchers.after_commit,
        metrics.after_commit,
    ):
        projector.listen(hears_commit)
    ready.listen_queued(offers.queued)
    ready.listen_changed(ctx.waiters.changed)
    ctx.capacity.listen(offers.seat_freed)
    for hears_bus in (bus_came_or_went, vanished.bus_changed):
        bus.on_change(hears_bus)
    return Coordinator(ctx, offers, loops, Inbox(ctx, heard_event), vanished, metrics)


@asynccontextmanager
async def running(coordinator: Coordinator, enrolments: Enrolments | None = None) -> AsyncIterator[None]:
    """Meanwhile the coordinator answers on the bus and its loops run. The bus is started, and closed at the end."""
    ctx = coordinator.ctx
    await apply(ctx, enrolments or Enrolments())
    await coordinator.inbox.start()
    await coordinator.vanished.start()
    await ctx.bus.start()
    await coordinator.loops.start()
    ctx.publisher.start()
    try:
        yield
    finally:
        await coordinator.inbox.stop()
        await coordinator.vanished.stop()
        await coordinator.loops.stop()
        await ctx.publisher.stop()
        await ctx.bus.close()
