"""Who offers a job, and when: the coordinator that made it claimable at once, any other a round later; and nobody while
somebody who holds a call open is about to take it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from bus.memory import MemoryBroker, MemoryBus
from bus.subjects import PREFIX
from coordinator.assembly import running
from coordinator.context import Context
from coordinator.handlers import actions, claims
from coordinator.loops.offers import Offers
from coordinator.store.memory import MemoryStore
from runtime.entropy import Entropy
from runtime.settings import Timers
from schemas.factory import Health, Transport
from schemas.job import Job, Stage
from schemas.messages import ClaimAnswer
from schemas.work import Engine
from tests.support.fleet import PRODUCT, FakeFactory, assembled_coordinator, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time
from tests.support.waiting import eventually

ROUND_S = Timers().offer_round_s
WITHIN_ROUND_S = 0.4 * ROUND_S
HAIR_S = 0.1 * ROUND_S  # a loop may look that much late
LONG_AFTER_S = 10.0  # offers that nobody takes are repeated meanwhile, but no silent factory is down yet


def now_s() -> float:
    return asyncio.get_running_loop().time()


def is_claimable(ctx: Context, job: Job) -> bool:
    """For who names none."""
    queued = job.key in {each.key for each in ctx.ready.queued()}
    return queued and not ctx.precedence.is_set_aside(job.key, ctx.clock.boot_s())


def at(*seconds: float) -> Any:
    return pytest.approx(list(seconds), abs=HAIR_S)


class OfferingBus(MemoryBus):
    """A coordinator's, which keeps when it published an offer of which job."""

    def __init__(self, broker: MemoryBroker, name: str) -> None:
        super().__init__(broker, name=name)
        self.offers: list[tuple[float, str]] = []

    async def publish(self, subject: str, data: bytes, message_id: str | None = None) -> None:
        await super().publish(subject, data, message_id)
        if subject.startswith(f"{PREFIX}.offers."):
            self.offers.append((now_s(), orjson.loads(data)["jobId"]))


@dataclass
class OfferingNode:
    """One living coordinator."""

    ctx: Context
    bus: OfferingBus
    offers: Offers

    def offered(self, job: Job, since_s: float) -> list[float]:
        """How many seconds after that it published offers of the job."""
        return [at_s - since_s for at_s, job_id in self.bus.offers if job_id == job.id and at_s >= since_s]

    def knows(self, job: Job) -> bool:
        return job.key in {each.key for each in self.ctx.ready.queued()}


@dataclass
class Pair:
    """Two coordinators, `one` and `other`, on one store and one bus."""

    broker: MemoryBroker
    one: OfferingNode
    other: OfferingNode
    polls: list[asyncio.Task[ClaimAnswer]] = field(default_factory=list)

    async def on_the_bus(self, factory_id: str = "f1", heartbeat: dict[str, Any] | None = None, **own: Any) -> Any:
        """A factory that both coordinators hear on the bus. It claims nothing unless the test makes it."""
        factory = await FakeFactory(self.one.ctx, factory_id, **own).joined()
        await factory.heartbeat(transport=Transport.BUS, **(heartbeat or {}))

        def known() -> bool:
            entry = self.other.ctx.roster.get(factory_id)
            return entry is not None and entry.heard_at_s is not None and entry.doc.transport is Transport.BUS

        await eventually(known)
        return factory

    async def waits(
        self, factory: FakeFactory, gone: asyncio.Future[None] | None = None, **claim: Any
    ) -> asyncio.Task[ClaimAnswer]:
        """The factory's long-poll at the coordinator that it talks to, once that holds it open."""
        request = factory.claim_request("waits", **{"wait_s": 20, **claim})
        poll = asyncio.create_task(claims.claim(factory.ctx, request, gone))
        self.polls.append(poll)
        await eventually(lambda: factory.id in factory.ctx.waiters.waiting)
        await asyncio.sleep(1)
        assert factory.id in factory.ctx.waiters.waiting
        return poll


@asynccontextmanager
async def node(store: MemoryStore, broker: MemoryBroker, name: str) -> AsyncIterator[OfferingNode]:
    bus = OfferingBus(broker, name)
    made = assembled_coordinator(store, seed=len(name), bus=bus, alone=False)
    async with running(made):
        yield OfferingNode(made.ctx, bus, made.offers)


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    store, broker = MemoryStore(), MemoryBroker(Entropy(random.Random(7)))
    async with node(store, broker, "one") as one, node(store, broker, "other") as other:
        made = Pair(broker, one, other)
        try:
            yield made
        finally:
            for poll in made.polls:
                poll.cancel()
            await asyncio.gather(*made.polls, return_exceptions=True)


async def submits(world: Pair, factory: FakeFactory) -> Job:
    return await submitted(world.one.ctx)


async def promotes(world: Pair, factory: FakeFactory) -> Job:
    dep = await submitted(world.one.ctx, "dep", verify='"true"')
    job = await submitted(world.one.ctx, "last", deps="[dep]")
    grant = await factory.granted("takes-the-dep", dep)
    await asyncio.sleep(1)
    await factory.report(grant)
    return job


async def reaps(world: Pair, factory: FakeFactory) -> Job:
    job = await submitted(world.one.ctx)
    await factory.granted("is-lost", job)
    await asyncio.sleep(1)
    factory.session_id, factory.session_no = "s2", 2
    await factory.hello(transport=Transport.BUS)
    return job


MAKES_IT_CLAIMABLE = [submits, promotes, reaps]


@pytest.mark.parametrize("claimable", MAKES_IT_CLAIMABLE)
@in_virtual_time
async def test_who_made_a_job_claimable_offers_it_at_once_and_the_other_only_after_a_round(
    claimable: Callable[[Pair, FakeFactory], Awaitable[Job]],
) -> None:
    async with pair() as world:
        job = await claimable(world, await world.on_the_bus())
        began_s = now_s()
        await asyncio.sleep(ROUND_S - HAIR_S)
        assert (await job_now(world.one.ctx, job)).stage is Stage.QUEUED
        assert world.other.knows(job), "it is silent though it has heard"
        assert world.one.offered(job, began_s) == at(0.0)
        assert world.other.offered(job, began_s) == []
        await asyncio.sleep(2 * HAIR_S)
        assert world.other.offered(job, began_s) == at(ROUND_S)


@pytest.mark.parametrize("claimable", MAKES_IT_CLAIMABLE)
@in_virtual_time
async def test_the_other_never_offers_a_job_that_was_claimed_in_the_first_round(
    claimable: Callable[[Pair, FakeFactory], Awaitable[Job]],
) -> None:
    async with pair() as world:
        factory = await world.on_the_bus()
        job = await claimable(world, factory)
        began_s = now_s()
        await asyncio.sleep(WITHIN_ROUND_S)
        await factory.granted("takes-it", job)
        await asyncio.sleep(LONG_AFTER_S)
        assert world.one.offered(job, began_s) == at(0.0)
        assert world.other.offered(job, began_s) == []


@in_virtual_time
async def test_what_its_own_coordinator_never_offers_the_other_offers_a_round_after_it_heard() -> None:
    async with pair() as world:
        await world.on_the_bus()
        await world.one.offers.stop()
        job = await submitted(world.one.ctx)
        began_s = now_s()
        await asyncio.sleep(ROUND_S + HAIR_S)
        assert world.one.offered(job, began_s) == []
        assert world.other.offered(job, began_s) == at(ROUND_S)


@in_virtual_time
async def test_what_a_coordinator_left_untold_is_offered_a_round_after_it_was_found_in_the_store() -> None:
    async with pair() as world:
        await world.on_the_bus()
        job = await submitted(coordinator(world.one.ctx.store))
        await world.other.ctx.ready.refresh(world.other.ctx.store)
        began_s = now_s()
        await asyncio.sleep(ROUND_S + HAIR_S)
        assert world.other.offered(job, began_s) == at(ROUND_S)


@in_virtual_time
async def test_a_job_left_alone_is_given_only_after_the_round_to_who_names_none() -> None:
    async with pair() as world:
        factory = (await world.on_the_bus()).on(world.other.ctx)
        job = await submitted(world.one.ctx)
        await asyncio.sleep(ROUND_S - HAIR_S)
        assert world.other.knows(job)
        assert not is_claimable(world.other.ctx, job)
        assert not (await factory.claim("too-early")).grants
        await asyncio.sleep(2 * HAIR_S)
        assert is_claimable(world.other.ctx, job)
        assert (await factory.granted("in-time")).job_id == job.id


@in_virtual_time
async def test_a_job_is_left_alone_no_longer_than_the_round_though_the_offers_stand_still() -> None:
    async with pair() as world:
        factory = (await world.on_the_bus()).on(world.other.ctx)
        await world.other.offers.stop()
        job = await submitted(world.one.ctx)
        await asyncio.sleep(ROUND_S - HAIR_S)
        assert not (await factory.claim("too-early")).grants
        await asyncio.sleep(2 * HAIR_S)
        assert (await factory.granted("in-time")).job_id == job.id


@in_virtual_time
async def test_who_made_it_claimable_gives_it_at_once_to_who_names_none() -> None:
    async with pair() as world:
        factory = await world.on_the_bus()
        job = await submitted(world.one.ctx)
        await asyncio.sleep(WITHIN_ROUND_S)
        assert is_claimable(world.one.ctx, job)
        assert (await factory.granted()).job_id == job.id


@in_virtual_time
async def test_a_job_left_alone_is_given_at_once_to_who_names_it() -> None:
    async with pair() as world:
        factory = (await world.on_the_bus()).on(world.other.ctx)
        job = await submitted(world.one.ctx)
        await asyncio.sleep(WITHIN_ROUND_S)
        assert not is_claimable(world.other.ctx, job)
        assert (await factory.granted("names-it", job)).job_id == job.id


@in_virtual_time
async def test_a_long_poll_where_the_job_is_left_alone_is_woken_when_the_round_is_over() -> None:
    async with pair() as world:
        await world.on_the_bus()
        poll = await world.waits(await FakeFactory(world.other.ctx, "f2").joined())
        job = await submitted(world.one.ctx)
        began_s = now_s()
        (grant,) = (await poll).grants
        assert grant.job_id == job.id
        assert [now_s() - began_s] == at(ROUND_S)


async def nobody(world: Pair) -> None:
    assert not world.other.ctx.roster.entries()


async def one_without_the_capability(world: Pair) -> None:
    await world.on_the_bus()


async def one_without_the_engine(world: Pair) -> None:
    await world.on_the_bus(capabilities=("gpu",), heartbeat={"engines": (Engine.CLAUDE,)})


async def one_of_another_product(world: Pair) -> None:
    await world.on_the_bus(capabilities=("gpu",), products=("bank",))


async def one_that_drains(world: Pair) -> None:
    await world.on_the_bus(capabilities=("gpu",), heartbeat={"draining": True})


async def one_without_a_seat(world: Pair) -> None:
    factory = await world.on_the_bus(capabilities=("gpu",), seats=1)
    await factory.granted("its-only-seat", await submitted(world.one.ctx, "held"))


async def one_that_fell_silent(world: Pair) -> None:
    await world.on_the_bus(capabilities=("gpu",))
    await asyncio.sleep(world.other.ctx.timers.down_after_s + 1)
    (entry,) = world.other.ctx.roster.entries()
    assert world.other.ctx.roster.health(entry) is Health.DOWN


async def one_over_rest(world: Pair) -> None:
    factory = await world.on_the_bus(capabilities=("gpu",))
    await factory.heartbeat(transport=Transport.REST)


NOBODY_FITTING = [
    nobody,
    one_without_the_capability,
    one_without_the_engine,
    one_of_another_product,
    one_that_drains,
    one_without_a_seat,
    one_that_fell_silent,
    one_over_rest,
]


@pytest.mark.parametrize("on_the_bus", NOBODY_FITTING)
@in_virtual_time
async def test_where_nobody_on_the_bus_fits_a_long_poll_anywhere_is_given_the_job_at_once(
    on_the_bus: Callable[[Pair], Awaitable[None]],
) -> None:
    async with pair() as world:
        await on_the_bus(world)
        waiter = await FakeFactory(world.other.ctx, "f2", capabilities=("gpu",)).joined()
        poll = await world.waits(waiter)
        job = await submitted(world.one.ctx, capabilities="[gpu]")
        began_s = now_s()
        (grant,) = (await poll).grants
        assert grant.job_id == job.id
        assert [now_s() - began_s] == at(0.0)


@in_virtual_time
async def test_a_coordinator_without_the_bus_leaves_no_job_alone() -> None:
    async with pair() as world:
        factory = (await world.on_the_bus()).on(world.other.ctx)
        world.broker.stop()
        job = await submitted(world.one.ctx)
        await world.other.ctx.ready.refresh(world.other.ctx.store)
        assert world.other.knows(job)
        assert (await factory.granted()).job_id == job.id


def the_broker_stops(world: Pair) -> None:
    world.broker.stop()


def it_alone_is_disconnected(world: Pair) -> None:
    world.other.bus.lose()


@pytest.mark.parametrize("loses", [the_broker_stops, it_alone_is_disconnected])
@in_virtual_time
async def test_a_job_left_alone_as_the_bus_went_is_claimable_after_the_round_all_the_same(
    loses: Callable[[Pair], None],
) -> None:
    async with pair() as world:
        factory = (await world.on_the_bus()).on(world.other.ctx)
        await submitted(world.one.ctx)
        await asyncio.sleep(WITHIN_ROUND_S)
        loses(world)
        await asyncio.sleep(ROUND_S - WITHIN_ROUND_S - HAIR_S)
        assert not world.other.bus.connected
        assert not (await factory.claim("too-early")).grants
        await asyncio.sleep(2 * HAIR_S)
        assert len((await factory.claim("in-time")).grants) == 1


@pytest.mark.parametrize("loses", [the_broker_stops, it_alone_is_disconnected])
@in_virtual_time
async def test_a_long_poll_is_woken_after_the_round_though_the_bus_went_meanwhile(
    loses: Callable[[Pair], None],
) -> None:
    async with pair() as world:
        await world.on_the_bus()
        poll = await world.waits(await FakeFactory(world.other.ctx, "f2").joined())
        await submitted(world.one.ctx)
        began_s = now_s()
        await asyncio.sleep(WITHIN_ROUND_S)
        loses(world)
        assert len((await poll).grants) == 1
        assert [now_s() - began_s] == at(ROUND_S)


@in_virtual_time
async def test_a_job_that_a_waiting_call_takes_is_never_offered() -> None:
    async with pair() as world:
        await world.on_the_bus()
        poll = await world.waits(await FakeFactory(world.one.ctx, "f2").joined())
        job = await submitted(world.one.ctx)
        began_s = now_s()
        (grant,) = (await poll).grants
        assert (grant.job_id, now_s()) == (job.id, began_s)
        await asyncio.sleep(LONG_AFTER_S)
        assert world.one.offered(job, began_s) == []
        assert world.other.offered(job, began_s) == []


@in_virtual_time
async def test_one_waiting_call_that_fits_is_enough_beside_others_that_do_not() -> None:
    async with pair() as world:
        await world.on_the_bus(capabilities=("gpu",))
        await lacks_the_capability(world)
        poll = await world.waits(await FakeFactory(world.one.ctx, "f3", capabilities=("gpu",)).joined())
        job = await submitted(world.one.ctx, capabilities="[gpu]")
        began_s = now_s()
        (grant,) = (await poll).grants
        assert grant.job_id == job.id
        assert "f2" in world.one.ctx.waiters.waiting
        await asyncio.sleep(LONG_AFTER_S)
        assert world.one.offered(job, began_s) == []


@in_virtual_time
async def test_a_job_that_who_waits_does_not_take_is_offered_a_round_later_though_he_waits_on() -> None:
    async with pair() as world:
        await world.on_the_bus()
        await world.waits(await FakeFactory(world.one.ctx, "f2").joined())
        async with world.one.ctx.asks.turn("f2"):  # another ask of his is under way, and takes its time
            job = await submitted(world.one.ctx)
            began_s = now_s()
            await asyncio.sleep(ROUND_S + HAIR_S)
            assert world.one.offered(job, began_s) == at(ROUND_S)


@in_virtual_time
async def test_one_waiting_call_holds_back_one_job_and_not_all_that_come() -> None:
    async with pair() as world:
        await world.on_the_bus()
        await world.waits(await FakeFactory(world.one.ctx, "f2").joined())
        began_s = now_s()
        jobs = await asyncio.gather(*(submitted(world.one.ctx, key) for key in ("one", "two", "three")))
        await asyncio.sleep(WITHIN_ROUND_S)
        offered = [world.one.offered(job, began_s) for job in jobs]
        assert sorted(offered) == [[], at(0.0), at(0.0)]


@in_virtual_time
async def test_a_waiter_of_another_product_alone_holds_nothing_back() -> None:
    async with pair() as world:
        await world.on_the_bus()
        both = await FakeFactory(world.one.ctx, "f2", products=(PRODUCT, "bank")).joined()
        await world.waits(both, product_id="bank")
        job = await submitted(world.one.ctx)
        began_s = now_s()
        await asyncio.sleep(WITHIN_ROUND_S)
        assert world.one.offered(job, began_s) == at(0.0)


@in_virtual_time
async def test_a_job_that_is_cancelled_and_queued_again_is_offered_at_once() -> None:
    async with pair() as world:
        await world.on_the_bus()
        job = await submitted(world.one.ctx)
        await asyncio.sleep(3.0)
        await actions.act(world.one.ctx, job.key, "cancel", "operator:ann", "a1")
        await actions.act(world.one.ctx, job.key, "requeue", "operator:ann", "a2")
        began_s = now_s()
        await asyncio.sleep(WITHIN_ROUND_S)
        assert world.one.offered(job, began_s)[:1] == at(0.0)


@in_virtual_time
async def test_a_job_whose_waiter_hangs_up_as_it_comes_is_offered_a_round_later() -> None:
    async with pair() as world:
        await world.on_the_bus()
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        poll = await world.waits(await FakeFactory(world.one.ctx, "f2").joined(), gone)
        world.one.ctx.projector.listen(lambda _job, _events: gone.done() or gone.set_result(None))
        job = await submitted(world.one.ctx)
        began_s = now_s()
        await asyncio.sleep(ROUND_S + HAIR_S)
        assert not (await poll).grants
        assert not world.one.ctx.waiters.waiting
        assert world.one.offered(job, began_s) == at(ROUND_S)


@in_virtual_time
async def test_a_call_that_has_ended_holds_back_no_later_job() -> None:
    async with pair() as world:
        await world.on_the_bus()
        poll = await world.waits(await FakeFactory(world.one.ctx, "f2").joined(), wait_s=2)
        assert not (await poll).grants
        job = await submitted(world.one.ctx)
        began_s = now_s()
        await asyncio.sleep(WITHIN_ROUND_S)
        assert world.one.offered(job, began_s) == at(0.0)


async def lacks_the_capability(world: Pair) -> None:
    await world.waits(await FakeFactory(world.one.ctx, "f2").joined())


async def says_it_lacks_the_capability(world: Pair) -> None:
    waiter = await FakeFactory(world.one.ctx, "f2", capabilities=("gpu",)).joined()
    await world.waits(waiter, capabilities=())


async def serves_another_product(world: Pair) -> None:
    waiter = await FakeFactory(world.one.ctx, "f2", capabilities=("gpu",), products=("bank",)).joined()
    await world.waits(waiter)


async def has_another_engine(world: Pair) -> None:
    waiter = await FakeFactory(world.one.ctx, "f2", capabilities=("gpu",)).joined()
    await world.waits(waiter, engines=(Engine.CLAUDE,))


async def is_draining(world: Pair) -> None:
    waiter = await FakeFactory(world.one.ctx, "f2", capabilities=("gpu",)).joined()
    await waiter.heartbeat(draining=True)
    await world.waits(waiter)


async def has_no_seat(world: Pair) -> None:
    waiter = await FakeFactory(world.one.ctx, "f2", capabilities=("gpu",), seats=1).joined()
    await waiter.granted("its-only-seat", await submitted(world.one.ctx, "held"))
    await world.waits(waiter)


DOES_NOT_FIT = [
    lacks_the_capability,
    says_it_lacks_the_capability,
    serves_another_product,
    has_another_engine,
    is_draining,
    has_no_seat,
]


@pytest.mark.parametrize("somebody_waits", DOES_NOT_FIT)
@in_virtual_time
async def test_a_waiter_whom_the_job_does_not_fit_holds_nothing_back(
    somebody_waits: Callable[[Pair], Awaitable[None]],
) -> None:
    async with pair() as world:
        await world.on_the_bus(capabilities=("gpu",))
        await somebody_waits(world)
        job = await submitted(world.one.ctx, capabilities="[gpu]")
        began_s = now_s()
        await asyncio.sleep(WITHIN_ROUND_S)
        assert "f2" in world.one.ctx.waiters.waiting
        assert world.one.offered(job, began_s) == at(0.0)


@in_virtual_time
async def test_a_refresh_that_finds_many_jobs_looks_at_the_fleet_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair() as world:
        await world.on_the_bus()
        stranger = coordinator(world.one.ctx.store, seed=9)
        for number in range(50):
            await submitted(stranger, f"k{number}")
        snapshots: list[None] = []
        taken = Context.snapshot

        def counted(self: Context, claimant: Any = None) -> Any:
            snapshots.append(None)
            return taken(self, claimant)

        monkeypatch.setattr(Context, "snapshot", counted)
        await world.other.ctx.ready.refresh(world.other.ctx.store)
        assert len(snapshots) <= 5  # one for each step of the loop that found some
        assert not any(is_claimable(world.other.ctx, job) for job in world.other.ctx.ready.queued())
