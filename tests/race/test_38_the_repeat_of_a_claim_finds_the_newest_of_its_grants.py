"""Race 38: a claim won a job, gave it back, and a duplicate of it wins the same job again while another one asks."""

from __future__ import annotations

import pytest

from coordinator.factories import refresh_roster
from coordinator.handlers.claims import claim
from coordinator.store.memory import MemoryStore
from tests.support.faulty import FaultyStore, after, passes
from tests.support.fleet import FakeFactory, coordinator, events_of, submitted
from tests.support.virtual import in_virtual_time


@pytest.mark.parametrize("atomic_then", [True, False])
@in_virtual_time
async def test_the_one_that_lost_the_race_is_answered_with_the_grant_that_stands(atomic_then: bool) -> None:
    store = FaultyStore(MemoryStore(atomic_then=atomic_then))
    ctx, other = coordinator(store), coordinator(store.inner)
    await refresh_roster(other)
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    request = factory.claim_request("r1", job)
    (first,) = (await claim(ctx, request)).grants
    await factory.release(first)
    won: list[int] = []

    async def wins_elsewhere() -> None:
        (grant,) = (await claim(other, request)).grants
        won.append(grant.lease_epoch)

    store.script("read", passes, passes, after(wins_elsewhere))  # the factory, the job, the job to be decided on
    (again,) = (await claim(ctx, request)).grants
    assert [again.lease_epoch] == won == [2]
    assert [event.type for event in await events_of(ctx, job)] == ["submitted", "claimed", "released", "claimed"]
