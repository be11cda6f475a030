"""Race 21: a process that lost its counter says hello at a coordinator that never heard the living session."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.store.memory import MemoryStore
from schemas.errors import ErrorCode, FleetError
from tests.support.fleet import FakeFactory, coordinator
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_a_coordinator_goes_by_what_the_store_was_told_too() -> None:
    store = MemoryStore()
    here, elsewhere = coordinator(store), coordinator(store)
    living = await FakeFactory(elsewhere).joined()
    lost = FakeFactory(here, session_id="s9")
    for _ in range(12):  # a minute of heartbeats, few of which are stored
        await living.heartbeat()
        await asyncio.sleep(here.timers.heartbeat_s - 0.1)  # the store's word is as old as it gets
        with pytest.raises(FleetError, match="--takeover") as refused:
            await lost.hello(session_no=None)
        assert refused.value.code is ErrorCode.FENCED
        await asyncio.sleep(0.1)
    assert (await lost.hello(session_no=None, takeover=True)).session_no == 2
    await asyncio.sleep(here.timers.alive_within_s + here.timers.roster_store_s)
    assert (await lost.hello(session_no=None)).session_no == 2
