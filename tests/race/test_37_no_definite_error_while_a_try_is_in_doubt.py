"""Race 37: a write's first try timed out and is on its way, its second is refused for want of room on the disk."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.handlers.actions import act
from coordinator.store.memory import MemoryStore
from coordinator.store.port import StoreFull
from schemas.errors import ErrorCode, FleetError
from schemas.job import Stage
from tests.support.faulty import Call, FaultyStore, lands_after
from tests.support.fleet import coordinator, events_of, job_now, submitted
from tests.support.virtual import in_virtual_time


async def full(_call: Call) -> None:
    raise StoreFull("scripted: the disk is full, nothing was written")


@pytest.mark.parametrize("atomic_then", [True, False])
@in_virtual_time
async def test_the_asker_is_told_that_it_is_not_known_and_the_repeat_tells_what_happened(atomic_then: bool) -> None:
    store = FaultyStore(MemoryStore(atomic_then=atomic_then))
    ctx = coordinator(store)
    job = await submitted(ctx)
    landing, landed = asyncio.Event(), asyncio.Event()
    store.script("commit", lands_after(landing, landed), full)
    with pytest.raises(FleetError) as doubtful:
        await act(ctx, job.key, "cancel", "operator:ann", "k1")
    assert doubtful.value.code is ErrorCode.UNAVAILABLE
    landing.set()
    await landed.wait()
    assert (await job_now(ctx, job)).stage is Stage.FAILED
    assert (await act(ctx, job.key, "cancel", "operator:ann", "k1")).repeated
    assert [event.type for event in await events_of(ctx, job)] == ["submitted", "cancelled"]


@in_virtual_time
async def test_without_doubt_the_definite_error_is_what_is_told() -> None:
    store = FaultyStore(MemoryStore())
    ctx = coordinator(store)
    job = await submitted(ctx)
    store.script("commit", full)
    with pytest.raises(StoreFull):
        await act(ctx, job.key, "cancel", "operator:ann", "k1")
    assert (await job_now(ctx, job)).stage is Stage.QUEUED
