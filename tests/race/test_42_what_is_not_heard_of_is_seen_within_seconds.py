"""Long-polls sleep while something that concerns them happens elsewhere, or just with time: a sweep wakes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from coordinator.context import Context
from coordinator.handlers import intake
from coordinator.handlers.budgets import set_paused
from coordinator.handlers.enrolment import enroll
from coordinator.handlers.quotas import gate_engine
from coordinator.loops.sweeper import Sweeper
from coordinator.store.memory import MemoryStore
from schemas.factory import FactoryDoc
from schemas.work import Engine
from tests.support.fleet import PRODUCT, FakeFactory, coordinator, manifest, submitted
from tests.support.virtual import in_virtual_time

SWEEP_S = 5.0
SECONDS_MAX = 6.0


async def granted_within_seconds(ctx: Context, factory: FakeFactory, happens: Callable[[], Awaitable[object]]) -> None:
    """The factory waits at `ctx`; then it happens; then it must not take longer than a sweep."""

    async def sweeps() -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            await Sweeper(ctx).run_once(ctx.clock.now())

    waiting = asyncio.create_task(factory.on(ctx).claim("waits", wait_s=20))
    sweeping = asyncio.create_task(sweeps())
    await asyncio.sleep(1)
    await happens()
    began = ctx.clock.boot_s()
    answer = await waiting
    sweeping.cancel()
    assert len(answer.grants) == 1
    assert ctx.clock.boot_s() - began < SECONDS_MAX


@in_virtual_time
async def test_a_resume_at_another_coordinator() -> None:
    store = MemoryStore()
    here, there = (coordinator(store, seed=n, budgets=True, alone=False) for n in range(2))
    factory = await FakeFactory(here).joined()
    await submitted(here)
    await set_paused(here, PRODUCT, paused=True)
    await granted_within_seconds(here, factory, lambda: set_paused(there, PRODUCT, paused=False))


@in_virtual_time
async def test_a_seat_freed_at_another_coordinator_before_its_claim_was_seen_here() -> None:
    store = MemoryStore()
    here, there = coordinator(store), coordinator(store)
    factory = await FakeFactory(there, seats=1).joined()
    await submitted(here, "one")
    await there.ready.refresh(store)
    grant = await factory.granted("r1")
    await submitted(here, "two")
    await granted_within_seconds(here, factory, lambda: factory.report(grant))


@in_virtual_time
async def test_more_stale_candidates_than_one_look_tries() -> None:
    store = MemoryStore()
    here, there = coordinator(store), coordinator(store)
    for number in range(40):
        await submitted(here, f"k{number}")
    await asyncio.sleep(1)
    last = await submitted(here, "last")
    await there.ready.refresh(store)
    busy = await FakeFactory(there, id="f2", seats=40).joined()
    for number in range(40):
        await busy.granted(f"r{number}")
    free = await FakeFactory(here, id="f1").joined()
    assert (await free.granted("r1")).job_id == last.id


@in_virtual_time
async def test_an_enrolment_that_was_widened() -> None:
    ctx = coordinator()
    factory = await FakeFactory(ctx).joined()
    await intake.submit(ctx, intake.Submission(manifest(), "other", "k"), "operator:ann")
    wider = FactoryDoc(id=factory.id, product_id=PRODUCT, products=(PRODUCT, "other"))
    await granted_within_seconds(ctx, factory, lambda: enroll(ctx, wider))


@in_virtual_time
async def test_a_quota_gate_that_ran_out() -> None:
    ctx = coordinator()
    factory = await FakeFactory(ctx).joined()
    await gate_engine(ctx, factory.id, Engine.SHELL, ctx.clock.now() + timedelta(seconds=2))
    await submitted(ctx)
    await granted_within_seconds(ctx, factory, lambda: asyncio.sleep(1))
