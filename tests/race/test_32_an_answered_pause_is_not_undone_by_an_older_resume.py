"""Race 32: a resume was given up in doubt, a pause was answered since, and then the resume's write arrives."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.handlers.budgets import set_paused
from coordinator.store.change import TRIES_MAX
from coordinator.store.memory import MemoryStore
from schemas.errors import ErrorCode, FleetError
from tests.support.faulty import FaultyStore, lands_after, never_applied
from tests.support.fleet import PRODUCT, FakeFactory, coordinator, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_nothing_is_claimed_after_the_pause_was_answered() -> None:
    store = FaultyStore(MemoryStore())
    ctx = coordinator(store, budgets=True)
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    await set_paused(ctx, PRODUCT, paused=True)
    landing, landed = asyncio.Event(), asyncio.Event()
    store.script("update", lands_after(landing, landed), *[never_applied] * (TRIES_MAX - 1))
    with pytest.raises(FleetError) as doubtful:
        await set_paused(ctx, PRODUCT, paused=False)
    assert doubtful.value.code is ErrorCode.UNAVAILABLE
    assert (await set_paused(ctx, PRODUCT, paused=True)).paused  # it is so already, and yet has to be written
    landing.set()
    await landed.wait()
    with pytest.raises(FleetError) as refused:
        await factory.claim("r1", job)
    assert refused.value.code is ErrorCode.BUDGET_PAUSED
