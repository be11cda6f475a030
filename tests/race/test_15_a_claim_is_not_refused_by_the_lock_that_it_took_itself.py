"""Race 15: a claim's first try took the lock and its answer was lost; the second try reads the taken lock."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.store.memory import MemoryStore
from schemas.job import Stage
from tests.support.faulty import FaultyStore, answer_lost, lands_after, never_applied
from tests.support.fleet import FakeFactory, coordinator, events_of, job_now, submitted
from tests.support.virtual import in_virtual_time


@pytest.mark.parametrize("atomic_then", [True, False])
@in_virtual_time
async def test_a_claim_whose_answer_was_lost_is_known_as_its_own(atomic_then: bool) -> None:
    store = FaultyStore(MemoryStore(atomic_then=atomic_then))
    ctx = coordinator(store)
    job = await submitted(ctx, lock="repo")
    factory = await FakeFactory(ctx).joined()
    store.script("commit", never_applied, answer_lost)
    grant = await factory.granted("r1", job)
    assert grant.lease_epoch == 1
    assert [event.type for event in await events_of(ctx, job)] == ["submitted", "claimed"]


@in_virtual_time
async def test_a_write_that_lands_between_the_reads_of_the_second_try_is_found() -> None:
    store = FaultyStore(MemoryStore())
    ctx = coordinator(store)
    job = await submitted(ctx, lock="repo")
    factory = await FakeFactory(ctx).joined()
    landing, landed = asyncio.Event(), asyncio.Event()
    store.script("commit", lands_after(landing, landed))
    reads = 0
    inner_read = store.inner.read

    async def read(at):  # type: ignore[no-untyped-def]
        nonlocal reads
        if at.id == "lock:repo":
            reads += 1
            if reads == 2:
                landing.set()
                await landed.wait()
        return await inner_read(at)

    store.inner.read = read  # type: ignore[method-assign]
    grant = await factory.granted("r1", job)
    assert (grant.lease_epoch, (await job_now(ctx, job)).stage) == (1, Stage.ASSIGNED)
    assert [event.type for event in await events_of(ctx, job)] == ["submitted", "claimed"]
