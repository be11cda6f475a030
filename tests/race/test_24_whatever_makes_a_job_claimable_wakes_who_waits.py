"""Race 24: a factory waits for something to claim, and what it lacked becomes free by somebody else's doing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from coordinator.context import Context
from coordinator.handlers.budgets import set_paused
from coordinator.store.memory import MemoryStore
from schemas.job import Job
from tests.support.faulty import FaultyStore, answer_lost
from tests.support.fleet import PRODUCT, FakeFactory, coordinator, submitted
from tests.support.virtual import in_virtual_time

PROMPTLY_S = 1.0  # and not when the long poll of 20 s ends


@asynccontextmanager
async def waiting_in_vain(factory: FakeFactory) -> AsyncIterator[list[Job]]:
    """Around what should wake its long poll; the job that it is to be granted is put into the list."""
    expected: list[Job] = []
    poll = asyncio.create_task(factory.claim("waits", wait_s=20))
    await asyncio.sleep(1)
    assert not poll.done()
    woken_at_s = factory.ctx.clock.boot_s()
    yield expected
    answer = await poll
    assert [grant.job_id for grant in answer.grants] == [job.id for job in expected]
    assert factory.ctx.clock.boot_s() - woken_at_s < PROMPTLY_S


@in_virtual_time
async def test_a_seat_that_the_factorys_own_report_frees() -> None:
    ctx = coordinator()
    factory = await FakeFactory(ctx, seats=1).joined()
    await submitted(ctx, "one")
    grant = await factory.granted("r1")
    two = await submitted(ctx, "two")
    async with waiting_in_vain(factory) as expected:
        await factory.report(grant)
        expected.append(two)


@in_virtual_time
async def test_a_lock_that_is_freed_at_another_coordinator_and_found_by_a_refresh() -> None:
    store = MemoryStore()
    here, elsewhere = coordinator(store), coordinator(store)
    waits, holds = await FakeFactory(here, id="f1").joined(), await FakeFactory(elsewhere, id="f2").joined()
    await submitted(elsewhere, "one", lock="repo")
    grant = await holds.granted("r1")
    two = await submitted(here, "two", lock="repo")
    await here.ready.refresh(store)
    async with waiting_in_vain(waits) as expected:
        await holds.report(grant)
        await here.ready.refresh(store)
        expected.append(two)


@in_virtual_time
async def test_a_lock_that_is_freed_by_a_report_here_of_a_grant_made_elsewhere() -> None:
    store = MemoryStore()
    here, elsewhere = coordinator(store), coordinator(store)
    waits, holds = await FakeFactory(here, id="f1").joined(), await FakeFactory(elsewhere, id="f2").joined()
    await submitted(here, "one", lock="repo")
    await elsewhere.ready.refresh(store)
    grant = await holds.granted("r1")
    two = await submitted(here, "two", lock="repo")
    async with waiting_in_vain(waits) as expected:
        await holds.on(here).report(grant)
        expected.append(two)


@in_virtual_time
async def test_a_product_that_is_resumed() -> None:
    ctx: Context = coordinator(MemoryStore(), budgets=True)
    factory = await FakeFactory(ctx).joined()
    job = await submitted(ctx)
    await set_paused(ctx, PRODUCT, paused=True)
    async with waiting_in_vain(factory) as expected:
        await set_paused(ctx, PRODUCT, paused=False)
        expected.append(job)


@pytest.mark.parametrize("atomic_then", [True, False])
@in_virtual_time
async def test_a_job_whose_submit_was_stored_but_its_answer_lost(atomic_then: bool) -> None:
    store = FaultyStore(MemoryStore(atomic_then=atomic_then))
    ctx = coordinator(store)
    factory = await FakeFactory(ctx).joined()
    store.script("commit", answer_lost)
    async with waiting_in_vain(factory) as expected:
        expected.append(await submitted(ctx))


@pytest.mark.parametrize("atomic_then", [True, False])
@in_virtual_time
async def test_a_job_whose_release_was_stored_but_its_answer_lost(atomic_then: bool) -> None:
    store = FaultyStore(MemoryStore(atomic_then=atomic_then))
    ctx = coordinator(store)
    holds, waits = await FakeFactory(ctx, id="f1").joined(), await FakeFactory(ctx, id="f2").joined()
    job = await submitted(ctx)
    grant = await holds.granted("r1")
    async with waiting_in_vain(waits) as expected:
        store.script("commit", answer_lost)
        await holds.release(grant)
        expected.append(job)
