"""Race 35: many claims queue for one ledger whose store is slow; the last one's turn comes after a lease's time."""

from __future__ import annotations

import asyncio
from typing import Any

from coordinator.store.memory import MemoryStore
from tests.support.faulty import Call, FaultyStore
from tests.support.fleet import FakeFactory, coordinator, submitted
from tests.support.virtual import in_virtual_time

CLAIMS = 14
WRITE_S = 4.9


@in_virtual_time
async def test_the_wait_for_the_turn_is_no_part_of_the_grants_time() -> None:
    store = FaultyStore(MemoryStore())
    ctx = coordinator(store, budgets=True)
    fleet = [await FakeFactory(ctx, id=f"f{number}").joined() for number in range(CLAIMS)]
    jobs = [await submitted(ctx, f"k{number}") for number in range(CLAIMS)]
    assert ctx.timers.lease_ttl_s + ctx.timers.skew_s < CLAIMS * WRITE_S

    async def slow(call: Call) -> Any:
        await asyncio.sleep(WRITE_S)
        return await call()

    store.script("commit", *[slow] * CLAIMS)
    grants = await asyncio.gather(*(each.granted("r1", job) for each, job in zip(fleet, jobs, strict=True)))
    for grant in grants:
        assert grant.term.lease_left_s >= ctx.timers.lease_ttl_s - WRITE_S - 0.1
        assert grant.term.start_within_s >= ctx.timers.grant_start_s - WRITE_S - 0.1
