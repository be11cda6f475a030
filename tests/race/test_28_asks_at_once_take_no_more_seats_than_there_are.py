"""Race 28: a factory asks under several requestIds before the first grant is known to be stored."""

from __future__ import annotations

import asyncio

from coordinator.store.memory import MemoryStore
from tests.support.faulty import FaultyStore, after
from tests.support.fleet import FakeFactory, coordinator, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_three_asks_for_one_seat_at_one_coordinator_win_one_job() -> None:
    store = FaultyStore(MemoryStore())
    ctx = coordinator(store)
    factory = await FakeFactory(ctx, seats=1).joined()
    for number in range(3):
        await submitted(ctx, f"k{number}")
    stored = asyncio.Event()
    store.script("commit", after(stored.wait))
    asks = [asyncio.create_task(factory.claim(f"r{number}")) for number in range(3)]
    await asyncio.sleep(1)
    stored.set()
    assert [len(answer.grants) for answer in await asyncio.gather(*asks)] == [1, 0, 0]


@in_virtual_time
async def test_a_seat_taken_at_another_coordinator_is_counted() -> None:
    store = MemoryStore()
    here, elsewhere = coordinator(store), coordinator(store)
    factory = await FakeFactory(elsewhere, seats=1).joined()
    await submitted(here, "one")
    await submitted(here, "two")
    await elsewhere.ready.refresh(store)
    assert len((await factory.claim("r1")).grants) == 1
    assert not (await factory.on(here).claim("r2")).grants
