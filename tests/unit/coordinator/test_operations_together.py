"""Several operations on jobs of one product are committed together: all at once, each with its own answer."""

from __future__ import annotations

import pytest

from coordinator.context import Context
from coordinator.domain.ops import Claim, Op, Operate, Rejected, Submit
from coordinator.domain.table import Action
from coordinator.store.memory import MemoryStore
from coordinator.store.port import JOBS
from coordinator.store.queries import read_ledger
from coordinator.transact import TOGETHER_MAX, Applied
from schemas.errors import ErrorCode, FleetError
from schemas.ids import JobKey, job_id_for
from schemas.job import Job, Stage
from schemas.manifest import parse_manifest
from schemas.projections import Choice
from tests.support.counting import CountingStore
from tests.support.faulty import FaultyStore, answer_lost, never_applied
from tests.support.fleet import PRODUCT, FakeFactory, coordinator, events_of, job_now, manifest, submitted
from tests.support.virtual import in_virtual_time


def claim_of(job: Job, factory: FakeFactory, request_id: str = "r1") -> tuple[JobKey, Op]:
    op = Claim(
        id=f"claim:{factory.id}:1:s1:{request_id}",
        actor=f"factory:{factory.id}",
        factory_id=factory.id,
        session_id="s1",
        session_no=1,
        ask_no=1,
        request_id=request_id,
        choice=Choice(weights_version="v"),
    )
    return job.key, op


def submit_of(name: str, body: str = "do it\n") -> tuple[JobKey, Op]:
    key = JobKey(PRODUCT, job_id_for(PRODUCT, name))
    return key, Submit.of(key, parse_manifest(manifest(body)), name, (), "operator:ann")


def ship_of(job: Job) -> tuple[JobKey, Op]:
    return job.key, Operate(id=f"action:ship:{job.id}", actor="operator:ann", action=Action.SHIP)


async def two_jobs(ctx: Context, **keys: object) -> list[Job]:
    return [await submitted(ctx, name, **keys) for name in ("one", "two")]


@in_virtual_time
async def test_they_are_one_commit() -> None:
    store = CountingStore()
    ctx = coordinator(store)
    factory = await FakeFactory(ctx).joined()
    jobs = await two_jobs(ctx)
    store.forget()
    answers = await ctx.transactor.transact_all([claim_of(job, factory) for job in jobs])
    assert all(isinstance(answer, Applied) and answer.job.stage is Stage.ASSIGNED for answer in answers)
    assert store.writes_to(JOBS) == 1
    for job in jobs:
        assert (await job_now(ctx, job)).stage is Stage.ASSIGNED
        assert [event.type for event in await events_of(ctx, job)] == ["submitted", "claimed"]


@in_virtual_time
async def test_what_is_refused_keeps_nothing_from_the_others() -> None:
    ctx = coordinator()
    factory = await FakeFactory(ctx).joined()
    one, two = await two_jobs(ctx)
    absent = one.model_copy(update={"id": "j-none-such"})
    answers = await ctx.transactor.transact_all([ship_of(one), claim_of(two, factory), ship_of(absent)])
    assert [getattr(answer, "reason", "applied") for answer in answers] == [
        "illegal_transition",
        "applied",
        "not_found",
    ]
    assert (await job_now(ctx, two)).stage is Stage.ASSIGNED


@in_virtual_time
async def test_of_two_that_want_one_lock_the_first_has_it() -> None:
    ctx = coordinator()
    factory = await FakeFactory(ctx).joined()
    jobs = await two_jobs(ctx, lock="deploy")
    first, second = await ctx.transactor.transact_all([claim_of(job, factory) for job in jobs])
    assert isinstance(first, Applied)
    assert isinstance(second, Rejected)
    assert (second.reason, second.detail["heldBy"]) == ("lock_busy", jobs[0].id)


@in_virtual_time
async def test_the_ledger_is_written_once_and_reserves_for_all() -> None:
    store = CountingStore()
    ctx = coordinator(store, budgets=True)
    factory = await FakeFactory(ctx).joined()
    jobs = await two_jobs(ctx, budget="{usd: 3}")
    await ctx.transactor.transact_all([claim_of(job, factory) for job in jobs])
    ledger = await read_ledger(store, PRODUCT)
    assert ledger is not None
    assert ledger[0].reserved == 6.0


@pytest.mark.parametrize("heard", [True, False], ids=["lost before", "lost after"])
@in_virtual_time
async def test_after_a_lost_answer_each_is_found_by_its_own_id(heard: bool) -> None:
    store = FaultyStore(MemoryStore())
    ctx = coordinator(store)
    store.script("commit", never_applied if heard else answer_lost)
    answers = await ctx.transactor.transact_all([submit_of("one"), submit_of("two")])
    assert all(isinstance(answer, Applied) and not answer.repeated for answer in answers)
    for name in ("one", "two"):
        assert len(await events_of(ctx, await job_now(ctx, JobKey(PRODUCT, job_id_for(PRODUCT, name))))) == 1


@in_virtual_time
async def test_a_job_that_moved_meanwhile_is_decided_anew_with_all_others() -> None:
    store = FaultyStore(MemoryStore())
    ctx = coordinator(store)
    one, two = await two_jobs(ctx)
    mine, other = await FakeFactory(ctx).joined(), await FakeFactory(coordinator(store.inner), "f2").joined()

    async def taken_first(call: object) -> object:
        await other.granted("r9", one)
        return await call()  # type: ignore[operator]

    store.script("commit", taken_first)
    first, second = await ctx.transactor.transact_all([claim_of(one, mine), claim_of(two, mine)])
    assert isinstance(first, Rejected)
    assert first.job is not None
    assert first.job.holder is not None
    assert first.job.holder.factory_id == "f2"
    assert isinstance(second, Applied)


@in_virtual_time
async def test_of_a_submit_under_a_used_key_the_manifest_tells_whose_it_is() -> None:
    ctx = coordinator()
    (first,) = await ctx.transactor.transact_all([submit_of("one")])
    same, another = (
        await ctx.transactor.transact(*submit_of("one")),
        await ctx.transactor.transact(*submit_of("one", "x\n")),
    )
    assert isinstance(first, Applied)
    assert not first.repeated
    assert isinstance(same, Applied)
    assert same.event == first.event
    assert isinstance(another, Rejected)
    assert another.reason == "conflict"


@in_virtual_time
async def test_where_the_store_never_tells_none_of_them_is_answered_definitely() -> None:
    store = FaultyStore(MemoryStore())
    ctx = coordinator(store)
    store.script("commit", *[never_applied] * 20)
    with pytest.raises(FleetError) as doubtful:
        await ctx.transactor.transact_all([submit_of("one"), submit_of("two")])
    assert doubtful.value.code is ErrorCode.UNAVAILABLE


@in_virtual_time
async def test_more_than_fit_into_a_commit_are_a_mistake() -> None:
    ctx = coordinator()
    with pytest.raises(AssertionError):
        await ctx.transactor.transact_all([submit_of(f"k{number}") for number in range(TOGETHER_MAX + 1)])
