"""Race 43: the reaper has read a job that did not start in time; the start comes in before it reads the lease."""

from __future__ import annotations

import asyncio

from coordinator.loops.reaper import Reaper
from coordinator.store.memory import MemoryStore
from schemas.job import Stage
from schemas.messages import TermAnswer
from tests.support.faulty import FaultyStore, after
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time

NOT_STARTED_IN_TIME_S = 40


@in_virtual_time
async def test_a_start_after_the_reaper_read_the_job_and_before_it_reads_the_lease_keeps_the_term() -> None:
    inner = MemoryStore()
    ctx = coordinator(inner)
    factory = await FakeFactory(ctx).joined()
    job = await submitted(ctx)
    grant = await factory.granted()
    await asyncio.sleep(NOT_STARTED_IN_TIME_S)
    answers: list[TermAnswer] = []

    async def starts() -> None:
        answers.append(await factory.start(grant))

    store = FaultyStore(inner)
    store.script("read", after(starts))  # the reaper's first read by id is that of the lease
    other = coordinator(store)
    await Reaper(other).run_once(other.clock.now())
    assert answers[0].term.lease_left_s == ctx.timers.lease_ttl_s
    assert (await job_now(ctx, job)).stage is Stage.BUILDING
