"""Race 36: grants are taken back unstarted, again and again; the job has hurt nobody and is not to be buried."""

from __future__ import annotations

import asyncio

from coordinator.context import Context
from coordinator.domain.retry import LOST_IN_A_ROW_MAX
from coordinator.loops.reaper import Reaper
from schemas.job import Stage
from schemas.outcome import Outcome
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time


async def reaped_after(ctx: Context, wait_s: float) -> dict[str, int]:
    await asyncio.sleep(wait_s)
    return dict(await Reaper(ctx).run_once(ctx.clock.now()))


@in_virtual_time
async def test_however_often_a_job_is_not_started_it_is_queued_again_uncharged() -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    for number in range(LOST_IN_A_ROW_MAX + 1):
        await factory.granted(f"r{number}")
        assert await reaped_after(ctx, 33) == {"not_started": 1}
    after = await job_now(ctx, job)
    assert after.result is not None
    assert (after.stage, after.lost_in_a_row, after.retries.used) == (Stage.QUEUED, 0, 0)
    assert after.result.outcome is Outcome.RELEASED


@in_virtual_time
async def test_a_job_that_is_lost_after_every_start_is_buried_also_when_some_grants_never_started() -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    for number in range(LOST_IN_A_ROW_MAX):
        assert (await job_now(ctx, job)).stage is Stage.QUEUED
        await factory.granted(f"unstarted-{number}")
        assert await reaped_after(ctx, 33) == {"not_started": 1}
        await factory.start(await factory.granted(f"started-{number}"))
        assert await reaped_after(ctx, 63) == {"expired": 1}
    assert (await job_now(ctx, job)).stage is Stage.DEAD_LETTER
