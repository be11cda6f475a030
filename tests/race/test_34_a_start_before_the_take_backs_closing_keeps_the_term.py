"""Race 34: the reaper found a grant not started in time; before it closes the lease, the start is acknowledged."""

from __future__ import annotations

import asyncio

from coordinator.loops.reaper import Reaper
from coordinator.store.memory import MemoryStore
from schemas.job import Stage
from schemas.messages import TermAnswer
from tests.support.faulty import FaultyStore, after
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_what_the_start_was_answered_holds() -> None:
    store = FaultyStore(MemoryStore())
    ctx = coordinator(store)
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await asyncio.sleep(ctx.timers.grant_start_s + ctx.timers.skew_s + 0.5)
    answers: list[TermAnswer] = []

    async def starts() -> None:
        answers.append(await factory.on(coordinator(store.inner)).start(grant))

    store.script("update", after(starts))
    assert await Reaper(ctx).run_once(ctx.clock.now()) == {}
    assert answers[0].term.lease_left_s == ctx.timers.lease_ttl_s
    await asyncio.sleep(ctx.timers.lease_ttl_s - 0.5)
    assert await Reaper(ctx).run_once(ctx.clock.now()) == {}
    assert (await job_now(ctx, job)).stage is Stage.BUILDING
    await asyncio.sleep(ctx.timers.skew_s + 1)
    assert await Reaper(ctx).run_once(ctx.clock.now()) == {"expired": 1}
