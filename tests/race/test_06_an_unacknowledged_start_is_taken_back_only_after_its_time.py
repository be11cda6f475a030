"""Race 6: the start was made but never acknowledged; the take-back must come after the holder stopped trusting."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.loops.reaper import Reaper
from schemas.errors import ErrorCode, FleetError
from schemas.job import Stage
from tests.support.fleet import FakeFactory, coordinator, job_now, lease_of, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_a_grant_that_never_started_is_taken_back_past_the_tolerated_skew_and_a_late_start_is_fenced() -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await asyncio.sleep(ctx.timers.grant_start_s + ctx.timers.skew_s - 0.1)
    assert await Reaper(ctx).run_once(ctx.clock.now()) == {}
    await asyncio.sleep(0.2)
    assert await Reaper(ctx).run_once(ctx.clock.now()) == {"not_started": 1}
    assert (await job_now(ctx, job)).stage is Stage.QUEUED
    with pytest.raises(FleetError) as refused:
        await factory.start(grant)
    assert refused.value.code is ErrorCode.FENCED


@in_virtual_time
async def test_a_start_between_the_closing_of_its_lease_and_the_take_back_is_told_to_stop() -> None:
    from coordinator import leases
    from coordinator.domain.ops import Cause

    ctx = coordinator()
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await asyncio.sleep(33)
    now = ctx.clock.now()
    assert await leases.close(ctx, await job_now(ctx, job), Cause.NOT_STARTED, now)
    with pytest.raises(FleetError) as refused:
        await factory.start(grant)
    assert refused.value.code is ErrorCode.FENCED
    lease = await lease_of(ctx, grant)
    assert lease is not None
    assert lease.status == "closed"
    assert await Reaper(ctx).run_once(ctx.clock.now()) == {"expired": 1}
    assert (await job_now(ctx, job)).stage is Stage.QUEUED
