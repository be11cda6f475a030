"""A whole coordinator around an open store and a bus: loops, inbox and feed. Whoever serves it adds the HTTP."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bus.port import Bus
from coordinator.context import Context
from coordinator.enrolments import Enrolments, apply
from coordinator.feed import Feed
from coordinator.inbox import Inbox
from coordinator.logs import LogFiles
from coordinator.loops.services import Loops
from coordinator.loops.vanished import Vanished
from coordinator.outward import Outward
from schemas.ids import JobKey

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Living:
    feed: Feed
    loops: Loops


@asynccontextmanager
async def living(
    ctx: Context, bus: Bus, logs: LogFiles, *, alone: bool, enrolments: Enrolments | None = None
) -> AsyncIterator[Living]:
    """`alone`: no other coordinator shares the store. The bus is started here and closed with the coordinator."""
    feed, outward = Feed(), Outward(bus)
    ctx.send_control, ctx.send_roster = outward.send_control, outward.send_roster
    loops = Loops(ctx, bus, alone=alone)
    for listener in (outward.after_commit, feed.after_commit):
        ctx.projector.tell(listener)

    def on_foreign_event(key: JobKey) -> None:
        loops.heard_event(key)
        feed.changed(key)

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
    outward.start()
    try:
        yield Living(feed, loops)
    finally:
        await inbox.stop()
        await vanished.stop()
        await loops.stop()
        await outward.stop()
        await bus.close()
