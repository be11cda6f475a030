"""Race 27: a factory said by heartbeat how busy it is; a sweep then reads its document, stored before that."""

from __future__ import annotations

import asyncio

from coordinator.loops.sweeper import Sweeper
from schemas.factory import Health
from tests.support.fleet import FakeFactory, coordinator, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_the_latest_heartbeat_counts_also_where_it_was_not_worth_a_write() -> None:
    ctx = coordinator()
    factory = await FakeFactory(ctx, seats=2).joined()
    await asyncio.sleep(ctx.timers.roster_store_s + 1)
    await factory.heartbeat(seats_used=2)  # stored
    await asyncio.sleep(ctx.timers.heartbeat_s)
    await factory.heartbeat(seats_used=0)  # known here only
    await Sweeper(ctx).run_once(ctx.clock.now())
    (view,) = ctx.roster.views()
    assert view.seats_free == 2


@in_virtual_time
async def test_a_factory_that_reports_is_alive() -> None:
    ctx = coordinator()
    await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await asyncio.sleep(ctx.timers.down_after_s + 1)
    (view,) = ctx.roster.views()
    assert view.health is Health.DOWN
    await factory.report(grant)
    (view,) = ctx.roster.views()
    assert view.health is Health.HEALTHY
