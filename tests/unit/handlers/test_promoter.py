"""What waits for something that is now so moves on: deps shipped, a retry due, retries used up, with the reason."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.context import Context
from coordinator.domain.table import Action
from coordinator.handlers.actions import act
from coordinator.loops.promoter import Promoter
from coordinator.store.memory import MemoryStore
from schemas.job import Job, Stage
from schemas.outcome import Outcome
from tests.support.faulty import FaultyStore, never_applied
from tests.support.fleet import FakeFactory, coordinator, events_of, job_now, submitted
from tests.support.virtual import in_virtual_time


async def promoted(ctx: Context) -> dict[str, int]:
    return {str(action): count for action, count in (await Promoter(ctx).run_once(ctx.clock.now())).items()}


async def finished(ctx: Context, factory: FakeFactory, job: Job, outcome: Outcome = Outcome.OK) -> None:
    await factory.report(await factory.granted(f"r-{job.id}-{job.lease_epoch}", job), outcome)


async def two_and_one_that_waits(ctx: Context, mode: str) -> tuple[FakeFactory, Job, Job, Job]:
    one = await submitted(ctx, "one", verify='"true"', retries=0)
    two = await submitted(ctx, "two", verify='"true"', retries=0)
    last = await submitted(ctx, "last", deps="[one, two]", depsMode=mode)
    return await FakeFactory(ctx).joined(), one, two, last


async def stage(ctx: Context, job: Job) -> Stage:
    return (await job_now(ctx, job)).stage


@in_virtual_time
async def test_a_job_that_waits_for_all_is_queued_when_the_last_dep_is_shipped() -> None:
    ctx = coordinator()
    factory, one, two, last = await two_and_one_that_waits(ctx, "all")
    await finished(ctx, factory, one)
    assert await promoted(ctx) == {"explain_block": 1}
    reason = (await job_now(ctx, last)).blocked_reason
    assert reason is not None
    assert two.id in reason.text
    assert one.id not in reason.text
    await finished(ctx, factory, two)
    assert await promoted(ctx) == {"unblock": 1}
    assert await stage(ctx, last) is Stage.QUEUED
    assert await promoted(ctx) == {}


@in_virtual_time
async def test_a_job_that_waits_for_any_is_queued_when_the_first_dep_is_shipped() -> None:
    ctx = coordinator()
    factory, one, _, last = await two_and_one_that_waits(ctx, "any")
    assert await promoted(ctx) == {}
    await finished(ctx, factory, one)
    assert await promoted(ctx) == {"unblock": 1}
    assert await stage(ctx, last) is Stage.QUEUED


@in_virtual_time
async def test_a_dep_that_failed_for_good_leaves_the_job_blocked_with_that_reason() -> None:
    ctx = coordinator()
    _, one, _, last = await two_and_one_that_waits(ctx, "all")
    await act(ctx, one.key, "cancel", "operator:ann", "k1")
    assert await promoted(ctx) == {"explain_block": 1}
    job = await job_now(ctx, last)
    assert job.blocked_reason is not None
    assert (job.stage, job.blocked_reason.kind) == (Stage.BLOCKED, "dep_failed")
    assert one.id in job.blocked_reason.text
    assert await promoted(ctx) == {}, "the same reason is not told twice"


@in_virtual_time
async def test_a_dep_that_waits_for_its_retry_has_not_failed_for_good() -> None:
    ctx = coordinator()
    dep = await submitted(ctx, "dep", verify='"true"')
    last = await submitted(ctx, "last", deps="dep")
    await finished(ctx, await FakeFactory(ctx).joined(), dep, Outcome.ENGINE_FAILED)
    assert await promoted(ctx) == {}
    reason = (await job_now(ctx, last)).blocked_reason
    assert reason is not None
    assert reason.kind == "deps"


@in_virtual_time
async def test_a_dep_that_is_requeued_and_shipped_after_all_frees_who_waits() -> None:
    ctx = coordinator()
    factory, one, two, last = await two_and_one_that_waits(ctx, "all")
    await act(ctx, one.key, "cancel", "operator:ann", "k1")
    await promoted(ctx)
    await act(ctx, one.key, "requeue", "operator:ann", "k2")
    await finished(ctx, factory, await job_now(ctx, one))
    await finished(ctx, factory, two)
    assert await promoted(ctx) == {"unblock": 1}
    assert [event.type for event in await events_of(ctx, last)] == ["submitted", "block_explained", "unblocked"]


@in_virtual_time
async def test_a_failed_job_is_tried_again_not_before_its_time() -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    await finished(ctx, await FakeFactory(ctx).joined(), job, Outcome.VERIFY_FAILED)
    due = (await job_now(ctx, job)).not_before
    assert due is not None
    await asyncio.sleep((due - ctx.clock.now()).total_seconds() - 0.01)
    assert await promoted(ctx) == {}
    await asyncio.sleep(0.02)
    assert await promoted(ctx) == {"retry": 1}
    after = await job_now(ctx, job)
    assert (after.stage, after.not_before, after.lease_epoch, after.granted_epoch) == (Stage.QUEUED, None, 2, 1)


@in_virtual_time
async def test_a_job_whose_retries_are_used_up_is_buried_and_explains_itself_to_who_waits() -> None:
    ctx = coordinator()
    dep = await submitted(ctx, "dep", retries=0)
    last = await submitted(ctx, "last", deps="dep")
    await finished(ctx, await FakeFactory(ctx).joined(), dep, Outcome.ENGINE_FAILED)
    assert (await promoted(ctx))["bury"] == 1
    assert await stage(ctx, dep) is Stage.DEAD_LETTER
    await promoted(ctx)
    reason = (await job_now(ctx, last)).blocked_reason
    assert reason is not None
    assert (reason.kind, "dead_letter" in reason.text) == ("dep_failed", True)


@pytest.mark.parametrize("way", ["cancel", "reject"])
@in_virtual_time
async def test_what_a_person_ended_is_neither_tried_again_nor_buried(way: str) -> None:
    ctx = coordinator()
    job = await submitted(ctx, verify='"true"', ship="manual")
    await finished(ctx, await FakeFactory(ctx).joined(), job)
    await act(ctx, job.key, way, "operator:ann", "k1")
    await asyncio.sleep(7200)
    assert await promoted(ctx) == {}
    assert await stage(ctx, job) is Stage.FAILED


@pytest.mark.parametrize("outcome", [Outcome.BUDGET, Outcome.DECOMPOSED])
@in_virtual_time
async def test_a_job_that_waits_for_a_person_or_its_children_is_left_to_them(outcome: Outcome) -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    await finished(ctx, await FakeFactory(ctx).joined(), job, outcome)
    assert await promoted(ctx) == {}
    assert await stage(ctx, job) is Stage.BLOCKED


@in_virtual_time
async def test_what_a_commit_made_due_is_done_at_once_and_not_at_the_next_interval() -> None:
    ctx = coordinator()
    promoter = Promoter(ctx)
    ctx.projector.listen(promoter.note)
    factory, one, _, last = await two_and_one_that_waits(ctx, "any")
    await finished(ctx, factory, one)
    await promoter.run_noted(ctx.clock.now())
    assert await stage(ctx, last) is Stage.QUEUED


@in_virtual_time
async def test_two_promoters_move_a_job_once() -> None:
    store = MemoryStore()
    ctx, other = coordinator(store), coordinator(store)
    factory, one, _, last = await two_and_one_that_waits(ctx, "any")
    await finished(ctx, factory, one)
    counts = await asyncio.gather(promoted(ctx), promoted(other))
    assert [event.type for event in await events_of(ctx, last)] == ["submitted", "unblocked"]
    assert all(set(count) <= {str(Action.UNBLOCK)} for count in counts)


@in_virtual_time
async def test_one_job_whose_write_stays_in_doubt_does_not_keep_the_others_waiting() -> None:
    store = FaultyStore(MemoryStore())
    ctx = coordinator(store)
    dep = await submitted(ctx, "dep", verify='"true"')
    waiting = [await submitted(ctx, f"w{n}", deps="dep") for n in range(3)]
    await finished(ctx, await FakeFactory(ctx).joined(), dep)
    store.script("commit", *[never_applied] * 12)  # as many as are tried for the first of them
    await Promoter(ctx).run_once(ctx.clock.now())
    stages = [await stage(ctx, job) for job in waiting]
    assert stages.count(Stage.QUEUED) == 2
