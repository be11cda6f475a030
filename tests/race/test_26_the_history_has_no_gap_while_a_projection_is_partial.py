"""Race 26: of two events in a job's outbox the later one is projected, the earlier one not yet; somebody reads."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.loops.sweeper import Sweeper
from coordinator.store.job_history import read_history
from coordinator.store.memory import MemoryStore
from coordinator.store.port import EVENTS, Derived, Indefinite
from tests.support.fleet import FakeFactory, coordinator, events_of, job_now, submitted
from tests.support.virtual import in_virtual_time


class TornStore(MemoryStore):
    """A projection writes its documents one by one, and the events in `missing` do not arrive."""

    missing: frozenset[int] = frozenset()

    async def project(self, derived: Sequence[Derived]) -> None:
        arrive = [write for write in derived if write.container != EVENTS or write.doc["seq"] not in self.missing]
        await super().project(arrive)
        if len(arrive) < len(derived):
            raise Indefinite("scripted: a part of the projection timed out")


@in_virtual_time
async def test_a_reader_sees_every_event_once_and_in_order_at_each_moment() -> None:
    store = TornStore(atomic_then=False)
    ctx = coordinator(store)
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    store.missing = frozenset({2, 3})
    grant = await factory.granted("r1")
    await factory.start(grant)
    for missing in ({2, 3}, {2}, set[int]()):
        store.missing = frozenset(missing)
        await Sweeper(ctx).run_once(ctx.clock.now())
        assert [event.type for event in await events_of(ctx, job)] == ["submitted", "claimed", "started"]
        assert [event.seq for event in await read_history(store, job.key, after=1) or ()] == [2, 3]
    assert not (await job_now(ctx, job)).outbox
