"""Which waiting call a job wakes: the one it fits best, and only if that one fails the next. Nobody
looks twice for one change, and no change falls between looking and waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from coordinator.context import Context
from coordinator.factories import refresh_roster
from coordinator.handlers import claims, enrolment, intake
from coordinator.store.port import FACTORIES, StoreError
from runtime.settings import Timers
from schemas.errors import FleetError
from schemas.factory import FactoryDoc
from schemas.job import Job, Stage
from schemas.messages import ClaimAnswer
from tests.support.counting import LATENCY_S, CountingStore
from tests.support.faulty import FaultyStore, never_applied
from tests.support.fleet import PRODUCT, FakeFactory, coordinator, job_now, manifest, submitted
from tests.support.virtual import in_virtual_time
from tests.support.waiting import eventually

POLL_S = 20.0
ROUND_S = Timers().offer_round_s
PROMPTLY_S = 0.2  # some calls to the store; far from any loop's period
LONG_S = 10.0
BANK = "bank"

Poll = asyncio.Task[ClaimAnswer]


@dataclass
class Crowd:
    """One coordinator whose store counts who looks, since each look reads the factory's document once; `elsewhere` is
    another one, of which it hears nothing.
    """

    store: CountingStore = field(default_factory=CountingStore)
    polls: dict[str, Poll] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ctx = coordinator(self.store)
        self.elsewhere = coordinator(self.store, seed=2)

    async def joined(self, factory_id: str, *capabilities: str, **own: Any) -> FakeFactory:
        return await FakeFactory(self.ctx, factory_id, capabilities=capabilities, **own).joined()

    async def waits(self, factory: FakeFactory, gone: asyncio.Future[None] | None = None, **claim: Any) -> Poll:
        """It holds a call open, having looked in vain."""
        request = factory.claim_request("waits", **{"wait_s": POLL_S, **claim})
        poll = self.polls[factory.id] = asyncio.create_task(claims.claim(self.ctx, request, gone))
        await eventually(lambda: factory.id in self.ctx.waiters.waiting)
        await asyncio.sleep(PROMPTLY_S)
        assert factory.id in self.ctx.waiters.waiting
        self.store.forget()
        return poll

    def looks(self) -> dict[str, int]:
        """How often each looked, of those who did since the last one began to wait."""
        asked = [at.id for at in self.store.reads if at.container == FACTORIES]
        return {name: asked.count(name) for name in sorted(set(asked))}

    async def given(self, within_s: float = PROMPTLY_S) -> dict[str, str]:
        """The job of each whose call has given it one."""
        await asyncio.sleep(within_s)
        answered = {name: poll.result().grants for name, poll in self.polls.items() if poll.done()}
        return {name: grants[0].job_id for name, grants in answered.items() if grants}

    async def loses(self, *losers: FakeFactory) -> None:
        """They are enrolled for no capability any more, and the coordinator where they wait has not heard of it."""
        for factory in losers:
            doc = FactoryDoc(id=factory.id, product_id=PRODUCT, products=(PRODUCT,))
            await enrolment.enroll(self.elsewhere, doc)
        self.store.forget()


async def submitted_to_the_bank(ctx: Context) -> Job:
    return (await intake.submit(ctx, intake.Submission(manifest(), BANK, "one"), "operator:bob")).job


# -- who is woken --


@in_virtual_time
async def test_a_job_wakes_one_of_many() -> None:
    world = Crowd()
    for number in range(20):
        await world.waits(await world.joined(f"f{number:02}"))
    job = await submitted(world.ctx)
    given = await world.given()
    assert list(given.values()) == [job.id]
    assert world.looks() == dict.fromkeys(given, 1)
    assert len(world.ctx.waiters.waiting) == 19


@in_virtual_time
async def test_so_many_jobs_at_once_wake_so_many_and_each_has_one() -> None:
    world = Crowd()
    for number in range(10):
        await world.waits(await world.joined(f"f{number}"))
    jobs = await asyncio.gather(*(submitted(world.ctx, f"k{number}") for number in range(4)))
    given = await world.given()
    assert sorted(given.values()) == sorted(job.id for job in jobs)
    assert world.looks() == dict.fromkeys(given, 1)


@in_virtual_time
async def test_jobs_that_are_found_in_one_refresh_wake_one_each() -> None:
    world = Crowd()
    for number in range(10):
        await world.waits(await world.joined(f"f{number}"))
    jobs = [await submitted(world.elsewhere, f"k{number}") for number in range(4)]
    world.store.forget()
    await world.ctx.ready.refresh(world.store)
    given = await world.given()
    assert sorted(given.values()) == sorted(job.id for job in jobs)
    assert world.looks() == dict.fromkeys(given, 1)


@in_virtual_time
async def test_a_job_wakes_the_one_whom_it_fits_best_whoever_waited_first() -> None:
    world = Crowd()
    for name, capabilities in (("rare", ("gpu", "tpu")), ("plain", ()), ("rarest", ("gpu", "npu", "tpu"))):
        await world.waits(await world.joined(name, *capabilities))
    common = await submitted(world.ctx, "common")
    assert await world.given() == {"plain": common.id}
    special = await submitted(world.ctx, "special", capabilities="[gpu, tpu]")
    assert await world.given() == {"plain": common.id, "rare": special.id}
    assert world.looks() == {"plain": 1, "rare": 1}


@in_virtual_time
async def test_of_equal_ones_the_one_that_holds_less_is_woken() -> None:
    world = Crowd()
    busy, idle = await world.joined("busy"), await world.joined("idle")
    await busy.granted("its-first", await submitted(world.ctx, "held"))
    await world.waits(busy)
    await world.waits(idle)
    job = await submitted(world.ctx)
    assert await world.given() == {"idle": job.id}


@in_virtual_time
async def test_the_best_of_several_jobs_goes_to_who_fits_it_and_the_rest_to_the_rest() -> None:
    world = Crowd()
    await world.waits(await world.joined("both", "gpu"))
    await world.waits(await world.joined("plain"))
    special, common = await asyncio.gather(
        submitted(world.ctx, "special", capabilities="[gpu]"), submitted(world.ctx, "common")
    )
    assert await world.given() == {"both": special.id, "plain": common.id}


async def needs_another_capability(world: Crowd) -> None:
    await submitted(world.ctx, capabilities="[tpu]")


async def needs_another_engine(world: Crowd) -> None:
    await submitted(world.ctx, engine="claude")


async def is_another_products(world: Crowd) -> None:
    await submitted_to_the_bank(world.ctx)


@pytest.mark.parametrize("submits", [needs_another_capability, needs_another_engine, is_another_products])
@in_virtual_time
async def test_a_job_that_does_not_fit_a_waiting_call_leaves_it_alone(submits: Callable[[Crowd], Any]) -> None:
    world = Crowd()
    await world.waits(await world.joined("f1", "gpu"))
    await submits(world)
    assert await world.given(LONG_S) == {}
    assert world.looks() == {}


@in_virtual_time
async def test_a_job_whose_lock_is_taken_wakes_somebody_only_when_it_is_free() -> None:
    world = Crowd()
    holds = await world.joined("holds")
    grant = await holds.granted("r1", await submitted(world.ctx, "held", lock="repo"))
    await world.waits(await world.joined("f1"))
    job = await submitted(world.ctx, lock="repo")
    assert await world.given(LONG_S) == {}
    assert world.looks() == {}
    await holds.report(grant)
    assert await world.given() == {"f1": job.id}


@in_virtual_time
async def test_jobs_that_nobody_who_waits_can_have_do_not_hide_one_behind_them() -> None:
    world = Crowd()
    holds = await world.joined("holds")
    await holds.granted("r1", await submitted(world.ctx, "held", lock="repo"))
    await world.waits(await world.joined("f1"))
    for number in range(3):
        await submitted(world.ctx, f"special-{number}", capabilities="[tpu]")
        await submitted(world.ctx, f"locked-{number}", lock="repo")
    assert await world.given() == {}
    job = await submitted(world.ctx)
    assert await world.given() == {"f1": job.id}
    assert world.looks() == {"f1": 1}


@in_virtual_time
async def test_a_call_for_one_product_is_not_woken_by_anothers_job_though_the_factory_serves_it() -> None:
    world = Crowd()
    await world.waits(await world.joined("f1", products=(PRODUCT, BANK)), product_id=PRODUCT)
    await submitted_to_the_bank(world.ctx)
    assert await world.given(LONG_S) == {}
    assert world.looks() == {}


@in_virtual_time
async def test_who_has_no_seat_free_is_not_woken_until_one_is() -> None:
    world = Crowd()
    factory = await world.joined("f1", seats=1)
    grant = await factory.granted("r1", await submitted(world.ctx, "held"))
    await world.waits(factory)
    job = await submitted(world.ctx)
    assert await world.given() == {}
    assert world.looks() == {}
    await factory.report(grant)
    assert await world.given() == {"f1": job.id}


# -- the woken one fails --


@in_virtual_time
async def test_if_the_woken_one_cannot_take_it_the_next_best_is_woken() -> None:
    world = Crowd()
    best, next_best, third = (
        await world.joined("best", "gpu"),
        await world.joined("next", "gpu", "tpu"),
        await world.joined("third", "gpu", "npu", "tpu"),
    )
    for factory in (third, next_best, best):
        await world.waits(factory)
    await world.loses(best)
    job = await submitted(world.ctx, capabilities="[gpu]")
    assert await world.given() == {"next": job.id}
    assert world.looks() == {"best": 1, "next": 1}


@in_virtual_time
async def test_if_nobody_can_take_it_each_looks_once_and_once_more_after_the_next_change() -> None:
    world = Crowd()
    holds = await FakeFactory(world.elsewhere, "holds").joined()
    await holds.granted("r1", await submitted(world.elsewhere, "held", lock="repo"))
    waiting = [await world.joined(f"f{number}") for number in range(6)]
    for factory in waiting:
        await world.waits(factory)
    await submitted(world.ctx, lock="repo")  # that the lock is taken is not known here
    assert await world.given(LONG_S / 2) == {}
    assert world.looks() == {factory.id: 1 for factory in waiting}
    world.ctx.ready.wake()
    assert await world.given(LONG_S / 2) == {}
    assert world.looks() == {factory.id: 2 for factory in waiting}


@in_virtual_time
async def test_what_a_look_has_shown_is_known_at_the_next_change() -> None:
    world = Crowd()
    waiting = [await world.joined(f"f{number}", "gpu") for number in range(3)]
    for factory in waiting:
        await world.waits(factory)
    await world.loses(*waiting)
    await submitted(world.ctx, "one", capabilities="[gpu]")
    await submitted(world.ctx, "two", capabilities="[gpu]")
    assert await world.given(LONG_S) == {}
    assert world.looks() == {factory.id: 1 for factory in waiting}


@in_virtual_time
async def test_a_job_that_somebody_else_was_faster_to_take_wakes_no_further_one() -> None:
    world = Crowd()
    faster = await FakeFactory(world.elsewhere, "faster").joined()
    for number in range(5):
        await world.waits(await world.joined(f"f{number}"))
    job = await submitted(world.elsewhere)
    await faster.granted("r1", job)
    world.store.forget()
    world.ctx.ready.note(job)  # news of it come late
    assert await world.given(LONG_S) == {}
    assert sum(world.looks().values()) == 1


@pytest.mark.parametrize("cancelled", [False, True], ids=["its client hangs up", "its call is cancelled"])
@in_virtual_time
async def test_who_goes_away_as_it_is_woken_passes_the_job_on(cancelled: bool) -> None:
    world = Crowd()
    gone = asyncio.get_running_loop().create_future()
    leaves = await world.waits(await world.joined("best"), gone)
    await world.waits(await world.joined("next", "gpu"))

    def leave() -> None:
        if not (leaves.done() or gone.done()):
            leaves.cancel() if cancelled else gone.set_result(None)

    world.ctx.ready.listen_changed(leave)
    job = await submitted(world.ctx)
    await asyncio.sleep(PROMPTLY_S)
    assert world.polls["next"].done()
    assert [grant.job_id for grant in world.polls["next"].result().grants] == [job.id]
    assert world.looks() == {"next": 1}
    assert leaves.cancelled() if cancelled else leaves.result().grants == ()


@in_virtual_time
async def test_who_went_away_before_is_not_woken() -> None:
    world = Crowd()
    gone = asyncio.get_running_loop().create_future()
    leaves = await world.waits(await world.joined("best"), gone)
    await world.waits(await world.joined("next", "gpu"))
    gone.set_result(None)
    assert (await leaves).grants == ()
    job = await submitted(world.ctx)
    assert await world.given() == {"next": job.id}
    assert world.looks() == {"next": 1}


@pytest.mark.parametrize("named", [False, True], ids=["the best job", "a job by its id"])
@in_virtual_time
async def test_who_goes_away_while_it_waits_for_its_turn_is_granted_nothing(named: bool) -> None:
    world = Crowd()
    factory = await world.joined("f1")
    job = await submitted(world.ctx)
    gone = asyncio.get_running_loop().create_future()
    async with world.ctx.asks.turn(factory.id):
        request = factory.claim_request("r1", job if named else None)
        asks = asyncio.create_task(claims.claim(world.ctx, request, gone))
        await asyncio.sleep(1)
        gone.set_result(None)
    assert (await asks).grants == ()
    assert (await job_now(world.ctx, job)).stage is Stage.QUEUED


# -- nothing falls between --


@in_virtual_time
async def test_what_comes_while_a_call_looks_at_something_else_in_vain_is_had_by_it() -> None:
    world = Crowd()
    faster = await FakeFactory(world.elsewhere, "faster").joined()
    factory = await world.joined("f1")
    gone_already = await submitted(world.elsewhere, "gone")
    await world.ctx.ready.refresh(world.store)
    await faster.granted("r1", gone_already)
    world.store.forget()
    asks = asyncio.create_task(factory.claim("waits", wait_s=POLL_S))
    await eventually(lambda: world.ctx.precedence.is_asked(gone_already.key), PROMPTLY_S)
    world.store.latency_s = 0.0  # so that it is there before the look is over
    job = await submitted(world.ctx)
    world.store.latency_s = LATENCY_S
    assert world.ctx.precedence.is_asked(gone_already.key)
    asked_s = world.ctx.clock.boot_s()
    assert [grant.job_id for grant in (await asks).grants] == [job.id]
    assert world.ctx.clock.boot_s() - asked_s < PROMPTLY_S


@in_virtual_time
async def test_what_comes_at_any_step_of_a_look_is_had_at_once() -> None:
    for steps in range(40):
        world = Crowd()
        factory = await world.joined("f1")
        asks = asyncio.create_task(factory.claim("waits", wait_s=POLL_S))
        await asyncio.sleep(steps * LATENCY_S / 4)
        job = await submitted(world.ctx)
        came_s = world.ctx.clock.boot_s()
        assert [grant.job_id for grant in (await asks).grants] == [job.id]
        assert world.ctx.clock.boot_s() - came_s < PROMPTLY_S


@in_virtual_time
async def test_what_a_call_held_open_does_not_take_wakes_the_next_even_if_it_was_there_before() -> None:
    """The first has looked for it already; one that begins to wait later looks by itself."""
    world = Crowd()
    without = await world.joined("without", "gpu")
    await world.waits(without)
    await world.loses(without)
    job = await submitted(world.ctx, capabilities="[gpu]")
    assert await world.given() == {}
    late = await world.joined("late", "gpu")
    asked_s = world.ctx.clock.boot_s()
    assert (await late.granted("r1")).job_id == job.id
    assert world.ctx.clock.boot_s() - asked_s < PROMPTLY_S


@in_virtual_time
async def test_who_is_dismissed_looks_a_last_time_and_is_answered() -> None:
    world = Crowd()
    for number in range(8):
        await world.waits(await world.joined(f"f{number}"))
    began_s = world.ctx.clock.boot_s()
    world.ctx.closing.set()
    world.ctx.waiters.dismiss()
    answers = await asyncio.gather(*world.polls.values())
    assert [answer.grants for answer in answers] == [()] * 8
    assert world.ctx.clock.boot_s() - began_s < PROMPTLY_S
    assert world.looks() == dict.fromkeys(world.polls, 1)
    assert world.ctx.waiters.waiting == set()


@in_virtual_time
async def test_a_call_whose_time_is_over_waits_no_longer_and_is_not_woken() -> None:
    world = Crowd()
    poll = await world.waits(await world.joined("f1"), wait_s=3.0)
    assert (await poll).grants == ()
    assert world.ctx.waiters.waiting == set()
    await submitted(world.ctx)
    assert await world.given() == {}
    assert world.looks() == {}


# -- a job that is being claimed --


@in_virtual_time
async def test_a_job_that_has_just_woken_somebody_wakes_no_second_one_at_the_next_change() -> None:
    world = Crowd()
    for name in ("f1", "f2"):
        await world.waits(await world.joined(name))
    submits = asyncio.create_task(submitted(world.ctx))
    await eventually(world.looks, PROMPTLY_S)
    assert not any(world.ctx.precedence.is_asked(job.key) for job in world.ctx.ready.queued()), (
        "who was woken has only begun to look"
    )
    world.ctx.ready.wake()
    assert list((await world.given()).values()) == [(await submits).id]
    assert sum(world.looks().values()) == 1


@in_virtual_time
async def test_a_job_that_somebody_is_at_wakes_nobody_else() -> None:
    world = Crowd()
    names_it = await world.joined("names-it", "gpu")
    await world.waits(await world.joined("waits"))
    job = await submitted(world.elsewhere)
    world.store.forget()
    asks = asyncio.create_task(names_it.claim("r1", job))
    await eventually(lambda: world.ctx.precedence.is_asked(job.key), PROMPTLY_S)
    await world.ctx.ready.refresh(world.store)  # it is heard of meanwhile
    assert [grant.job_id for grant in (await asks).grants] == [job.id]
    assert await world.given(LONG_S) == {}
    assert "waits" not in world.looks()


@in_virtual_time
async def test_a_job_is_marked_as_being_claimed_for_just_as_long_as_somebody_is_at_it() -> None:
    world = Crowd()
    key = (await submitted(world.ctx)).key
    with world.ctx.waiters.first_at(key):
        over = asyncio.create_task(world.ctx.waiters.ask_is_over(key))
        await asyncio.sleep(1)
        assert not over.done()
        assert world.ctx.precedence.is_asked(key)
    await over
    assert not world.ctx.precedence.is_asked(key)
    with pytest.raises(ValueError, match="it breaks"), world.ctx.waiters.first_at(key):
        raise ValueError("it breaks")
    assert not world.ctx.precedence.is_asked(key)


@in_virtual_time
async def test_a_job_that_the_woken_one_gives_back_at_once_wakes_the_other() -> None:
    world = Crowd()
    factories_ = [await world.joined(name) for name in "ab"]
    polls = [await world.waits(factory) for factory in factories_]
    job = await submitted(world.ctx)
    await asyncio.sleep(LATENCY_S * 8)
    (winner,) = (factory for factory, poll in zip(factories_, polls, strict=True) if poll.done())
    (grant,) = world.polls[winner.id].result().grants
    await winner.release(grant)
    (other,) = {"a", "b"} - {winner.id}
    assert (await world.given(2 * ROUND_S))[other] == job.id


@in_virtual_time
async def test_a_job_is_passed_on_when_the_woken_ones_look_breaks_off() -> None:
    store = CountingStore()
    ctx = coordinator(FaultyStore(store))
    polls = []
    for name in "ab":
        factory = await FakeFactory(ctx, name).joined()
        polls.append(asyncio.create_task(factory.claim("waits", wait_s=POLL_S)))
        await asyncio.sleep(PROMPTLY_S)
    await submitted(ctx)
    assert isinstance(ctx.store, FaultyStore)
    ctx.store.script("query", never_applied)
    await asyncio.sleep(2 * ROUND_S)
    broken, granted = sorted(polls, key=lambda poll: poll.done() and poll.exception() is None)
    assert isinstance(broken.exception(), StoreError)
    assert granted.done()
    assert granted.result().grants


@in_virtual_time
async def test_a_job_whose_woken_one_took_a_better_one_goes_to_the_other() -> None:
    world = Crowd()
    both = await world.joined("a", products=(PRODUCT, BANK), seats=1)
    other = await world.joined("b", "x", "y", seats=1)
    await world.waits(both)
    await world.waits(other)

    async def more_urgent() -> Job:
        await asyncio.sleep(LATENCY_S)
        submission = intake.Submission(manifest(priority="critical"), BANK, "urgent")
        return (await intake.submit(world.ctx, submission, "operator:bob")).job

    job, better = await asyncio.gather(submitted(world.ctx), more_urgent())
    assert await world.given(2 * ROUND_S) == {"a": better.id, "b": job.id}


@in_virtual_time
async def test_among_those_who_wait_whoever_knows_the_repository_is_woken() -> None:
    world = Crowd()
    stranger, knows = [await world.joined(name) for name in "ab"]
    repo = "https://example.invalid/shop.git"
    await knows.report(await knows.granted("r", await submitted(world.ctx, "one", repo=repo)))
    await world.waits(stranger)
    await world.waits(knows)
    job = await submitted(world.ctx, "two", repo=repo)
    assert await world.given() == {"b": job.id}


@in_virtual_time
async def test_claims_by_id_of_those_who_can_never_run_it_keep_no_job_from_a_call_that_waits() -> None:
    world = Crowd()
    unfit = [await world.joined(f"u{number}") for number in range(20)]
    fits = await world.joined("fits", "gpu")
    job = await submitted(world.ctx, capabilities="[gpu]")

    async def insists(factory: FakeFactory) -> None:
        while True:
            with pytest.raises(FleetError):
                await factory.claim("by-id", job)
            await asyncio.sleep(LATENCY_S)

    crowd = [asyncio.create_task(insists(factory)) for factory in unfit]
    await asyncio.sleep(PROMPTLY_S)
    world.polls["fits"] = asyncio.create_task(fits.claim("waits", wait_s=POLL_S))
    assert await world.given() == {"fits": job.id}
    for task in crowd:
        task.cancel()


@in_virtual_time
async def test_calls_of_superseded_sessions_pass_a_job_on_one_after_the_other_at_once() -> None:
    world = Crowd()
    for number in range(8):
        await world.waits(await world.joined(f"a{number}"))
    fresh = await FakeFactory(world.ctx, "z").joined()
    for number in range(8):
        newer = FakeFactory(world.elsewhere, f"a{number}", session_id="s2", session_no=2)
        await refresh_roster(world.elsewhere)
        await newer.hello(takeover=True)
    poll = await world.waits(fresh)
    job = await submitted(world.ctx)
    await asyncio.sleep(2 * PROMPTLY_S)
    fenced = [one.exception() for name, one in world.polls.items() if name != "z" and one.done()]
    assert fenced
    assert all(isinstance(one, FleetError) for one in fenced)
    assert [grant.job_id for grant in poll.result().grants] == [job.id]
