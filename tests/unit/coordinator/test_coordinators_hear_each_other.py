"""Several coordinators on one store and one bus: what one hears or does, all know of."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bus.memory import MemoryBroker, MemoryBus
from coordinator import assembly
from coordinator.context import Context
from coordinator.store.memory import MemoryStore
from coordinator.store.port import Store
from runtime.entropy import Entropy
from schemas.factory import Health
from schemas.job import Stage
from tests.support.fleet import FakeFactory, assembled_coordinator, submitted
from tests.support.virtual import in_virtual_time
from tests.support.waiting import eventually


@asynccontextmanager
async def running(store: Store, broker: MemoryBroker, name: str, logs: Path) -> AsyncIterator[Context]:
    made = assembled_coordinator(store, seed=len(name), bus=MemoryBus(broker, name=name), logs=logs, alone=False)
    async with assembly.running(made):
        yield made.ctx


def broker() -> MemoryBroker:
    return MemoryBroker(Entropy(random.Random(7)))


@in_virtual_time
async def test_a_heartbeat_heard_by_one_coordinator_reaches_every_roster() -> None:
    store, bus = MemoryStore(), broker()
    async with running(store, bus, "one", Path()) as one, running(store, bus, "other", Path()) as other:
        factory = await FakeFactory(one).joined()
        await factory.heartbeat(seats_used=3)
        await eventually(lambda: other.roster.get(factory.id) is not None)
        entry = other.roster.get(factory.id)
        assert entry is not None
        await eventually(lambda: other.roster.get(factory.id).doc.seats_used == 3)  # type: ignore[union-attr]
        entry = other.roster.get(factory.id)
        assert entry is not None
        assert other.roster.health(entry) is Health.HEALTHY
        await asyncio.sleep(20)
        assert other.roster.health(entry) is Health.DOWN


@in_virtual_time
async def test_a_job_submitted_at_one_is_claimable_at_the_other_at_once_and_no_token_hash_travels() -> None:
    store, bus = MemoryStore(), broker()
    heard: list[bytes] = []
    async with running(store, bus, "one", Path()) as one, running(store, bus, "other", Path()) as other:
        spy = MemoryBus(bus, name="spy")
        await spy.subscribe("fleet.v1.>", lambda message: heard.append(message.data))
        await spy.start()
        factory = await FakeFactory(one).joined()
        await factory.heartbeat()
        job = await submitted(one)
        await eventually(lambda: [each.id for each in other.ready.queued()] == [job.id], within_s=0.5)
        grant = await factory.on(other).granted("r1")
        await eventually(lambda: not list(one.ready.queued()), within_s=0.5)
        assert grant.job_id == job.id
        assert [each.stage for each in one.ready.held()] == [Stage.ASSIGNED]
        await spy.close()
    assert any(b'"type":"claimed"' in data for data in heard)
    assert not any(b"tokenHashes" in data and b'"tokenHashes":[]' not in data for data in heard)


@in_virtual_time
async def test_without_the_bus_a_long_poll_at_the_other_coordinator_wakes_within_seconds() -> None:
    store, bus = MemoryStore(), broker()
    async with running(store, bus, "one", Path()) as one, running(store, bus, "other", Path()) as other:
        factory = await FakeFactory(one).joined()
        bus.stop()
        waiting = asyncio.create_task(factory.on(other).claim("r1", wait_s=20))
        await asyncio.sleep(3)
        await submitted(one)
        began = asyncio.get_running_loop().time()
        assert len((await waiting).grants) == 1
        assert asyncio.get_running_loop().time() - began <= other.timers.ready_refresh_s + 0.1
