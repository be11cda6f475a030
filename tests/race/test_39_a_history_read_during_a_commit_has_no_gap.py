"""A job is read, two events are committed, the later one is projected first, and then the events are read."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.factories import refresh_roster
from coordinator.loops.sweeper import Sweeper
from coordinator.store.job_history import read_history
from coordinator.store.memory import MemoryStore
from coordinator.store.port import EVENTS, Derived, Indefinite
from tests.support.faulty import FaultyStore, after
from tests.support.fleet import FakeFactory, coordinator, submitted
from tests.support.virtual import in_virtual_time


class TornStore(MemoryStore):
    """Loses the projection of `reported` and whatever else there was to say, once told to."""

    torn = False

    async def project(self, derived: Sequence[Derived]) -> None:
        if not self.torn:
            return await super().project(derived)
        await super().project([one for one in derived if one.container != EVENTS or one.doc["type"] != "reported"])
        raise Indefinite("scripted: torn")


@in_virtual_time
async def test_a_reader_is_told_only_what_it_can_be_told_whole() -> None:
    inner = TornStore(atomic_then=False)
    store = FaultyStore(inner)
    ctx, other = coordinator(store), coordinator(inner)
    job = await submitted(ctx, verify='"true"')
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await factory.start(grant)
    await Sweeper(ctx).run_once(ctx.clock.now())
    await refresh_roster(other)

    async def reported_and_shipped() -> None:
        inner.torn = True
        await factory.on(other).report(grant)
        inner.torn = False

    store.script("query", after(reported_and_shipped))
    for expected in ([1, 2, 3], [1, 2, 3, 4, 5]):
        events = await read_history(store, job.key)
        assert events is not None
        assert [event.seq for event in events] == expected
