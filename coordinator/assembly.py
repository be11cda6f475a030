"""A whole coordinator around an open store and a bus: loops, inbox and watchers. Whoever serves it adds the HTTP."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bus.port import Bus
from coordinator.context import Context
from coordinator.enrolment_file import Enrolments, apply
from coordinator.inbox import Inbox
from coordinator.loops.services import Loops
from coordinator.loops.vanished import Vanished
from coordinator.publisher import Publisher
from coordinator.term_logs import LogFiles
from coordinator.watchers import Watchers
from schemas.ids import JobKey

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunningCoordinator:
    watchers: Watchers
    loops: Loops


@asynccontextmanager
async def living(
    ctx: Context, bus: Bus, logs: LogFiles, *, alone: bool, enrolments: Enrolments | None = None
) -> AsyncIterator[RunningCoordinator]:
    """`alone`: no other coordinator shares the store. The bus is started here and closed with the coordinator."""
    watchers, publisher = Watchers(), Publisher(bus)
    ctx.send_control, ctx.send_roster = publisher.send_control, publisher.send_roster
    loops = Loops(ctx, bus, alone=alone)
    for listener in (publisher.after_commit, watchers.after_commit):
        ctx.projector.listen(listener)

    def on_foreign_event(key: JobKey) -> None:
        loops.heard_event(key)
        watchers.changed(key)

    def on_change(up: bool) -> None:
        log.info("the bus is there" if up else "the bus is gone: REST goes on")
        if up:
            loops.offers.seat_freed()
        ctx.ready.wake()

    vanished = Vanished(ctx, bus)
    inbox = Inbox(ctx, bus, on_foreign_event)
    await apply(ctx, enrolments or Enrolments())
    bus.on_change(on_change)
    await inbox.start(logs)
    await vanished.start()
    await bus.start()
    await loops.start()
    publisher.start()
    try:
        yield RunningCoordinator(watchers, loops)
    finally:
        await inbox.stop()
        await vanished.stop()
        await loops.stop()
        await publisher.stop()
        await bus.close()
