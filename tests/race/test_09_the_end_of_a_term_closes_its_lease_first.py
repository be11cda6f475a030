"""Race 9: the reaper goes for the job while a renewal creates the missing lease, or reopens a closed one."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.domain.ops import Cause
from coordinator.leases import end_term
from coordinator.loops.reaper import Reaper
from coordinator.store.memory import MemoryStore
from coordinator.store.port import LEASES, Address
from schemas.errors import ErrorCode, FleetError
from schemas.job import Stage
from tests.support.faulty import FaultyStore, after
from tests.support.fleet import FakeFactory, coordinator, job_now, lease_of, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_a_renewal_that_creates_the_missing_lease_wins_over_the_reaper() -> None:
    store = FaultyStore(MemoryStore())
    ctx = coordinator(store)
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await factory.start(grant)
    stored = await store.inner.read(Address(LEASES, job.id, f"{job.id}:1"))
    assert stored is not None
    await store.inner.delete(Address(LEASES, job.id, f"{job.id}:1"), stored.etag)
    await asyncio.sleep(63)
    store.script("create", after(lambda: factory.on(coordinator(store.inner)).renew(grant)))
    assert await Reaper(ctx).run_once(ctx.clock.now()) == {}
    assert (await job_now(ctx, job)).stage is Stage.BUILDING
    assert (await factory.renew(grant)).term.lease_left_s == pytest.approx(60, abs=0.1)


@in_virtual_time
async def test_a_renewal_between_the_reapers_read_and_its_closing_keeps_the_term() -> None:
    store = FaultyStore(MemoryStore())
    ctx = coordinator(store)
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await factory.start(grant)
    await asyncio.sleep(63)
    store.script("update", after(lambda: factory.on(coordinator(store.inner)).renew(grant)))
    assert await Reaper(ctx).run_once(ctx.clock.now()) == {}
    assert (await job_now(ctx, job)).stage is Stage.BUILDING


@in_virtual_time
async def test_a_closed_lease_is_never_reopened_and_any_coordinator_finishes_the_end() -> None:
    store = FaultyStore(MemoryStore())
    ctx, other = coordinator(store), coordinator(store)
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await factory.start(grant)
    await asyncio.sleep(63)

    async def dies() -> None:
        raise RuntimeError("the coordinator dies between closing the lease and the job")

    store.script("commit", after(dies))
    with pytest.raises(RuntimeError, match="dies"):
        await end_term(ctx, await job_now(ctx, job), Cause.EXPIRED, ctx.clock.now())
    with pytest.raises(FleetError) as refused:
        await factory.on(other).renew(grant)
    assert refused.value.code is ErrorCode.FENCED
    (term,) = (await factory.on(other).heartbeat(grant)).terms
    assert not term.granted
    assert await Reaper(other).run_once(ctx.clock.now()) == {"expired": 1}
    assert (await job_now(ctx, job)).stage is Stage.QUEUED


@in_virtual_time
async def test_a_late_projection_of_the_grant_does_not_reopen_its_lease() -> None:
    ctx = coordinator(MemoryStore(atomic_then=False))
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    assigned = await job_now(ctx, job)
    await asyncio.sleep(33)
    await Reaper(ctx).run_once(ctx.clock.now())
    await ctx.projector.project(assigned)
    lease = await lease_of(ctx, grant)
    assert lease is not None
    assert lease.status == "closed"
