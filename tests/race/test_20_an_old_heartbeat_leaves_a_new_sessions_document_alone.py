"""Race 20: a heartbeat was found to be of the latest session; before it writes, a newer session says hello."""

from __future__ import annotations

import pytest

from coordinator.factories import read_enrolled
from coordinator.store.memory import MemoryStore
from schemas.errors import ErrorCode, FleetError
from tests.support.faulty import FaultyStore, after
from tests.support.fleet import FakeFactory, coordinator, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_the_old_session_is_fenced_and_what_the_new_one_said_stays() -> None:
    store = FaultyStore(MemoryStore())
    ctx = coordinator(store)
    old = await FakeFactory(ctx).joined()
    new = FakeFactory(ctx, session_id="s2", session_no=2, seats=4)
    store.script("update", after(new.on(coordinator(store.inner)).hello))
    with pytest.raises(FleetError) as refused:
        await old.heartbeat(draining=True, seats_used=8)
    assert refused.value.code is ErrorCode.FENCED
    doc = (await read_enrolled(ctx, new.id)).factory
    assert (doc.session_id, doc.seat_limit, doc.seats_used, doc.draining) == ("s2", 4, 0, False)
    job = await submitted(ctx)
    assert (await new.granted("r1")).job_id == job.id
