"""Race 12: a cancel was asked for, and the holder releases, fails, or is reaped."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.handlers.actions import act
from coordinator.loops.promoter import Promoter
from coordinator.loops.reaper import Reaper
from schemas.job import Stage
from schemas.outcome import Outcome
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time

WAYS = [
    "release",
    "verify_failed",
    "engine_failed",
    "quota_exhausted",
    "decomposed",
    "budget",
    "reaped",
    "forced",
]


@pytest.mark.parametrize("way", WAYS)
@in_virtual_time
async def test_with_a_cancel_asked_for_every_end_but_ok_is_failed_for_good(way: str) -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await factory.start(grant)
    await act(ctx, job.key, "cancel", "operator:ann", "k1")
    if way == "release":
        await factory.release(grant)
    elif way == "reaped":
        await asyncio.sleep(63)
        await Reaper(ctx).run_once(ctx.clock.now())
    elif way == "forced":
        await asyncio.sleep(ctx.timers.stop_deadline_s + ctx.timers.skew_s)
        assert await Reaper(ctx).run_once(ctx.clock.now()) == {"stop_deadline": 1}
    else:
        await factory.report(grant, Outcome(way))
    await asyncio.sleep(3600)
    await Promoter(ctx).run_once(ctx.clock.now())
    after = await job_now(ctx, job)
    assert (after.stage, after.not_before, after.lease_epoch) == (Stage.FAILED, None, 2)
    assert after.result is not None
    assert after.result.outcome is Outcome.CANCELLED


@in_virtual_time
async def test_an_ok_that_is_accepted_under_a_cancel_counts() -> None:
    ctx = coordinator()
    job = await submitted(ctx, verify='"true"')
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await factory.start(grant)
    await act(ctx, job.key, "cancel", "operator:ann", "k1")
    await factory.report(grant)
    assert (await job_now(ctx, job)).stage is Stage.SHIPPED


@in_virtual_time
async def test_a_cancel_of_a_job_that_waits_for_its_retry_ends_the_waiting() -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await factory.report(grant, Outcome.ENGINE_FAILED)
    assert (await job_now(ctx, job)).not_before is not None
    await act(ctx, job.key, "cancel", "operator:ann", "k1")
    await asyncio.sleep(7200)
    await Promoter(ctx).run_once(ctx.clock.now())
    assert (await job_now(ctx, job)).stage is Stage.FAILED


@in_virtual_time
async def test_cancel_overrides_preempt_and_never_the_reverse() -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await act(ctx, job.key, "preempt", "operator:ann", "k1", lease_epoch=1)
    await act(ctx, job.key, "cancel", "operator:ann", "k2")
    from schemas.errors import FleetError

    with pytest.raises(FleetError, match="cancel is under way"):
        await act(ctx, job.key, "preempt", "operator:ann", "k3", lease_epoch=1)
    await factory.release(grant, Outcome.PREEMPTED)
    assert (await job_now(ctx, job)).stage is Stage.FAILED
