"""A job that a machine cannot run goes elsewhere at once, and never back there; it costs the job no retry."""

from __future__ import annotations

from coordinator.context import Context
from coordinator.reads.histories import read_explanation
from schemas.job import Job, Stage
from schemas.messages import Grant
from schemas.outcome import Outcome, Result
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time


async def cannot(factory: FakeFactory, grant: Grant, why: str) -> None:
    await factory.start(grant)
    await factory.report(grant, result=Result(outcome=Outcome.MACHINE_FAILED, summary=why))


async def had_by(factory: FakeFactory, request_id: str) -> list[str]:
    return [grant.job_id for grant in (await factory.claim(request_id)).grants]


async def world() -> tuple[Context, FakeFactory, FakeFactory, Job]:
    """Two that fit, and one that does not."""
    ctx = coordinator()
    first = await FakeFactory(ctx, "f1", capabilities=("gpu",)).joined()
    second = await FakeFactory(ctx, "f2", capabilities=("gpu",)).joined()
    await FakeFactory(ctx, "unfit").joined()
    return ctx, first, second, await submitted(ctx, capabilities="[gpu]")


@in_virtual_time
async def test_the_job_goes_to_another_machine_at_once_and_never_back_to_the_first() -> None:
    ctx, first, second, job = await world()
    await cannot(first, await first.granted("r1"), "the cache is broken")
    now = await job_now(ctx, job)
    assert (now.stage, now.not_before, now.retries.used) == (Stage.QUEUED, None, 0)
    assert await had_by(first, "r2") == []
    told = (await read_explanation(ctx, job.key, ("shop",)))["candidates"]
    assert any("could not run it: the cache is broken" in str(one) for one in told)
    assert await had_by(second, "r3") == [job.id]


@in_virtual_time
async def test_when_every_machine_that_fits_has_tried_the_job_fails_with_the_reason_of_each() -> None:
    ctx, first, second, job = await world()
    await cannot(first, await first.granted("r1", job), "no disk")
    assert (await job_now(ctx, job)).stage is Stage.QUEUED
    await cannot(second, await second.granted("r2", job), "no network")
    now = await job_now(ctx, job)
    assert now.is_finished
    assert now.result is not None
    assert now.result.outcome is Outcome.MACHINE_FAILED
    assert "f1: no disk\nf2: no network" in str(now.result.summary)
    assert now.retries.used == 0
