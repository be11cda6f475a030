"""Race 23: the sweeper refreshes the ready index while another refresh is waiting for the store."""

from __future__ import annotations

import asyncio

from coordinator.store.memory import MemoryStore
from tests.support.faulty import FaultyStore, after
from tests.support.fleet import FakeFactory, coordinator, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_both_end_well_and_keep_what_was_committed_meanwhile() -> None:
    store = FaultyStore(MemoryStore())
    ctx, other = coordinator(store), coordinator(store.inner)
    known, foreign = await submitted(ctx, "known"), await submitted(other, "foreign")
    factory = await FakeFactory(ctx).joined()
    answered = asyncio.Event()
    store.script("query", after(answered.wait))
    first = asyncio.create_task(ctx.ready.refresh(store))
    await asyncio.sleep(1)
    second = asyncio.create_task(ctx.ready.refresh(store))
    await asyncio.sleep(1)
    await factory.granted("r1", known)
    new = await submitted(ctx, "new")
    answered.set()
    await asyncio.gather(first, second)
    assert {job.id for job in ctx.ready.queued()} == {foreign.id, new.id}
    assert [job.id for job in ctx.ready.held_by(factory.id)] == [known.id]
