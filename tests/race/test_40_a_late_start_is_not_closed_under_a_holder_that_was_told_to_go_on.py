"""The lease was renewed a moment ago, so a late start has no need to write it; the take-back read the job before."""

from __future__ import annotations

import asyncio

from coordinator.loops.reaper import Reaper
from coordinator.store.memory import MemoryStore
from schemas.job import Stage
from tests.support.faulty import FaultyStore, after
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_a_start_past_its_time_writes_the_lease_so_that_the_take_back_finds_it_changed() -> None:
    store = FaultyStore(MemoryStore())
    ctx, other = coordinator(store), coordinator(store.inner)
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await asyncio.sleep(25)
    await factory.heartbeat(grant)
    await asyncio.sleep(7.5)
    store.script("update", after(lambda: factory.on(other).start(grant)))
    assert await Reaper(ctx).run_once(ctx.clock.now()) == {}
    assert (await job_now(ctx, job)).stage is Stage.BUILDING
