"""A factory whose connection has ended: recovered early if it is silent, left alone if it lives by whichever way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bus.memory import MemoryBroker, MemoryBus
from bus.subjects import client_name
from coordinator.assembly import running
from coordinator.context import Context
from coordinator.handlers.enrolment import enroll
from runtime.entropy import Entropy
from schemas.factory import FactoryDoc, Transport
from schemas.job import Job, Stage
from schemas.messages import Grant
from tests.support.fleet import PRODUCT, FakeFactory, assembled_coordinator, coordinator, events_of, job_now, submitted
from tests.support.virtual import in_virtual_time

KEY = "key-of-f1"
WITHIN_S = 4.0  # far below the lease TTL


class Fleet:
    """A coordinator on a bus, and a factory `f1` that has begun a job and saved a checkpoint."""

    def __init__(self) -> None:
        self.broker = MemoryBroker(Entropy(random.Random(7)))
        self.coordinator = assembled_coordinator(bus=MemoryBus(self.broker, name="coordinator"))
        self.ctx: Context = self.coordinator.ctx
        self.factory = FakeFactory(self.ctx)
        self.client = self.client_of("s1")

    def client_of(self, session_id: str) -> MemoryBus:
        return MemoryBus(self.broker, name=client_name("f1", session_id), public=KEY)

    async def at_work(self) -> tuple[Job, Grant]:
        await enroll(self.ctx, FactoryDoc(id="f1", product_id=PRODUCT, products=(PRODUCT,), bus_key=KEY))
        await self.client.start()
        await self.factory.hello(transport=Transport.BUS)
        job = await submitted(self.ctx)
        grant = await self.factory.granted("r1")
        await self.factory.start(grant)
        return job, grant

    async def is_left_alone(self, job: Job) -> bool:
        await asyncio.sleep(WITHIN_S)
        return (await job_now(self.ctx, job)).stage is Stage.BUILDING


@asynccontextmanager
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet()
    async with running(made.coordinator):
        yield made


@in_virtual_time
async def test_the_job_of_a_factory_that_vanished_is_claimable_again_long_before_its_lease_runs_out() -> None:
    async with fleet() as world:
        job, grant = await world.at_work()
        await world.client.close()
        await asyncio.sleep(WITHIN_S)
        after = await job_now(world.ctx, job)
        assert (after.stage, after.lease_epoch, after.lost_in_a_row) == (Stage.QUEUED, 2, 1)
        assert (await events_of(world.ctx, job))[-1].data["cause"] == "vanished"
        answer = await world.factory.heartbeat(grant)
        assert [term.granted for term in answer.terms] == [False], "its lease is closed: should it live, it stops"


@in_virtual_time
async def test_one_that_is_back_on_the_bus_in_a_moment_keeps_its_job() -> None:
    async with fleet() as world:
        job, _ = await world.at_work()
        await world.client.close()
        await asyncio.sleep(1)
        await world.client_of("s1").start()
        assert await world.is_left_alone(job)


@in_virtual_time
async def test_one_that_goes_on_over_rest_keeps_its_job() -> None:
    async with fleet() as world:
        job, grant = await world.at_work()
        await world.client.close()
        await asyncio.sleep(1)
        await world.factory.heartbeat(grant, transport=Transport.REST)
        assert await world.is_left_alone(job)


@in_virtual_time
async def test_one_that_another_coordinator_heard_over_rest_keeps_its_job() -> None:
    async with fleet() as world:
        job, grant = await world.at_work()
        other = coordinator(world.ctx.store)
        await world.client.close()
        await asyncio.sleep(1)
        await world.factory.on(other).heartbeat(grant, transport=Transport.REST)
        assert await world.is_left_alone(job)


@in_virtual_time
async def test_the_end_of_another_sessions_connection_says_nothing_of_this_one() -> None:
    async with fleet() as world:
        job, _ = await world.at_work()
        fenced = world.client_of("an-older-session")
        await fenced.start()
        await fenced.close()
        assert await world.is_left_alone(job)


@in_virtual_time
async def test_a_coordinator_that_lost_the_bus_itself_says_nobody_is_gone() -> None:
    async with fleet() as world:
        job, _ = await world.at_work()
        await world.client.close()
        await asyncio.sleep(1)
        world.broker.stop()
        await asyncio.sleep(0.1)
        world.broker.start()
        assert await world.is_left_alone(job)


@in_virtual_time
async def test_a_word_of_the_broker_that_makes_no_sense_is_left_out() -> None:
    async with fleet() as world:
        job, _ = await world.at_work()
        for data in (b"", b"{}", b"[]", b'{"client": {"user": "x"}}', b'{"client": {"user": null, "name": "a/b"}}'):
            await world.ctx.bus.publish("fleet.v1.presence.gone", data)
        assert await world.is_left_alone(job)
