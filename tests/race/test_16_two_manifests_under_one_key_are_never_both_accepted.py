"""Race 16: two coordinators find a key free, and each creates its job under it, from another manifest."""

from __future__ import annotations

import pytest

from coordinator.context import Context
from coordinator.handlers import intake
from coordinator.store.memory import MemoryStore
from schemas.errors import ErrorCode, FleetError
from schemas.job import Job
from tests.support.faulty import FaultyStore, after, answer_lost
from tests.support.fleet import PRODUCT, SHELL_BLOCK, coordinator, events_of, job_now, manifest
from tests.support.virtual import in_virtual_time


async def submit(ctx: Context, body: str) -> intake.Submitted:
    return await intake.submit(ctx, intake.Submission(manifest(body + SHELL_BLOCK), PRODUCT, "k1"), "operator:ann")


def meanwhile_elsewhere(store: FaultyStore, body: str) -> list[Job]:
    """Submits `body` at another coordinator, between the next write's decision and the write."""
    jobs: list[Job] = []

    async def submitted() -> None:
        jobs.append((await submit(coordinator(store.inner), body)).job)

    store.script("commit", after(submitted))
    return jobs


@pytest.mark.parametrize("atomic_then", [True, False])
@in_virtual_time
async def test_the_one_that_came_second_is_told_of_the_conflict_and_the_first_stands(atomic_then: bool) -> None:
    store = FaultyStore(MemoryStore(atomic_then=atomic_then))
    ctx = coordinator(store)
    jobs = meanwhile_elsewhere(store, "the first\n")
    with pytest.raises(FleetError) as refused:
        await submit(ctx, "the second\n")
    assert refused.value.code is ErrorCode.CONFLICT
    (first,) = jobs
    assert (await job_now(ctx, first)).body_md == f"the first\n{SHELL_BLOCK}"
    assert [event.type for event in await events_of(ctx, first)] == ["submitted"]


@pytest.mark.parametrize("atomic_then", [True, False])
@in_virtual_time
async def test_the_same_manifest_submitted_twice_at_once_is_one_job(atomic_then: bool) -> None:
    store = FaultyStore(MemoryStore(atomic_then=atomic_then))
    ctx = coordinator(store)
    jobs = meanwhile_elsewhere(store, "the same\n")
    mine = await submit(ctx, "the same\n")
    assert [mine.job.id] == [job.id for job in jobs]
    assert [event.type for event in await events_of(ctx, mine.job)] == ["submitted"]


@pytest.mark.parametrize("atomic_then", [True, False])
@in_virtual_time
async def test_a_submit_whose_answer_was_lost_is_known_as_its_own(atomic_then: bool) -> None:
    store = FaultyStore(MemoryStore(atomic_then=atomic_then))
    store.script("commit", answer_lost)
    ctx = coordinator(store)
    mine = await submit(ctx, "mine\n")
    assert not mine.repeated
    assert [event.type for event in await events_of(ctx, mine.job)] == ["submitted"]
