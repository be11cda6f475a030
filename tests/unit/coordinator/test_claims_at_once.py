"""Many claim one job by its id at the same moment: one has it, the others are told so, and the store hardly notices."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from coordinator.context import Context
from coordinator.handlers import intake
from coordinator.store.port import FACTORIES, JOBS, StoreError
from schemas.errors import ErrorCode, FleetError
from schemas.job import Job, Stage
from schemas.messages import ClaimAnswer, Grant
from tests.support.counting import LATENCY_S, CountingStore
from tests.support.faulty import FaultyStore, never_applied
from tests.support.fleet import PRODUCT, FakeFactory, coordinator, events_of, job_now, manifest, submitted
from tests.support.virtual import in_virtual_time

READS_OF_THE_JOB_MAX = 8  # however many claim it
BANK = "bank"
Outcome = Grant | ErrorCode


async def herd(ctx: Context, count: int, **own: object) -> list[FakeFactory]:
    return [await FakeFactory(ctx, f"f{number}", **own).joined() for number in range(count)]  # type: ignore[arg-type]


async def outcome_of(claimed: asyncio.Task[ClaimAnswer]) -> Outcome:
    try:
        (grant,) = (await claimed).grants
        return grant
    except FleetError as error:
        return error.code


async def at_once(factories: Sequence[FakeFactory], job: Job, request_id: str = "r1") -> list[Outcome]:
    claims = [asyncio.create_task(each.claim(request_id, job)) for each in factories]
    return [await outcome_of(claimed) for claimed in claims]


def told(outcomes: Sequence[Outcome]) -> Counter[str]:
    return Counter("granted" if isinstance(one, Grant) else str(one) for one in outcomes)


@pytest.mark.parametrize("count", [2, 50, 200])
@in_virtual_time
async def test_a_crowd_costs_one_write_and_no_more_reads_than_a_few_and_all_but_one_are_told_of_the_conflict(
    count: int,
) -> None:
    store = CountingStore()
    ctx = coordinator(store)
    factories = await herd(ctx, count)
    job = await submitted(ctx)
    store.forget()
    outcomes = await at_once(factories, job)
    assert told(outcomes) == {"granted": 1, "conflict": count - 1}
    assert store.writes_to(JOBS) == 1
    assert store.reads_of(JOBS) <= READS_OF_THE_JOB_MAX
    assert store.reads_of(FACTORIES) <= 2
    assert store.queries_of(JOBS) <= 2
    now = await job_now(ctx, job)
    assert (now.stage, now.attempt) == (Stage.ASSIGNED, 1)


@in_virtual_time
async def test_a_crowd_for_a_job_that_was_taken_long_ago_costs_two_reads_and_nothing_else() -> None:
    store = CountingStore()
    ctx = coordinator(store)
    holder, *others = await herd(ctx, 51)
    job = await submitted(ctx)
    await holder.granted("r1", job)
    store.forget()
    assert told(await at_once(others, job)) == {"conflict": 50}
    assert (store.reads_of(JOBS), len(store.reads), len(store.queries), len(store.writes)) == (2, 2, 0, 0)


@in_virtual_time
async def test_claims_that_do_not_name_the_product_have_one_winner_too() -> None:
    ctx = coordinator(CountingStore())
    factories = await herd(ctx, 20)
    job = await submitted(ctx)
    claims = [asyncio.create_task(each.claim("r1", job, product_id=None)) for each in factories]
    assert told([await outcome_of(claimed) for claimed in claims]) == {"granted": 1, "conflict": 19}


@in_virtual_time
async def test_crowds_for_different_jobs_do_not_wait_for_each_other() -> None:
    ctx = coordinator(CountingStore())
    one, two = await FakeFactory(ctx, "f1").joined(), await FakeFactory(ctx, "f2").joined()
    jobs = [await submitted(ctx, key) for key in ("one", "two")]
    began_s = ctx.clock.boot_s()
    await one.granted("alone", jobs[0])
    alone_s = ctx.clock.boot_s() - began_s
    third = await submitted(ctx, "three")
    began_s = ctx.clock.boot_s()
    both = await asyncio.gather(one.granted("r2", jobs[1]), two.granted("r2", third))
    assert {grant.job_id for grant in both} == {jobs[1].id, third.id}
    assert ctx.clock.boot_s() - began_s == pytest.approx(alone_s)


@in_virtual_time
async def test_a_job_that_was_freed_just_before_it_was_asked_for_is_granted() -> None:
    """Though a read from before, which shows it taken, is still on its way, and nobody told this coordinator."""
    store = CountingStore()
    ctx, elsewhere = coordinator(store), coordinator(store)
    holder = await FakeFactory(elsewhere, "holds").joined()
    early, *late = await herd(ctx, 4)
    job = await submitted(elsewhere)
    grant = await holder.granted("r1", job)
    asked_early = asyncio.create_task(early.claim("r1", job))
    await asyncio.sleep(LATENCY_S / 2)
    store.latency_s = 0.0  # so that it is over before the read is answered
    await holder.release(grant)
    store.latency_s = LATENCY_S
    assert not asked_early.done()
    outcomes = await at_once(late, job)
    assert await outcome_of(asked_early) is ErrorCode.CONFLICT
    assert told(outcomes) == {"granted": 1, "conflict": 2}


@in_virtual_time
async def test_a_job_that_is_freed_while_a_crowd_asks_for_it_again_and_again_is_granted_once_more() -> None:
    ctx = coordinator(CountingStore())
    holder, *others = await herd(ctx, 6)
    job = await submitted(ctx)
    grant = await holder.granted("first", job)

    async def insists(factory: FakeFactory) -> list[Grant]:
        won: list[Grant] = []
        for number in range(40):
            won += [one for one in await at_once([factory], job, f"r{number}") if isinstance(one, Grant)]
        return won

    asking = [asyncio.create_task(insists(each)) for each in others]
    await asyncio.sleep(20 * LATENCY_S)
    await holder.release(grant)
    won = [one for each in asking for one in await each]
    assert [one.lease_epoch for one in won] == [2]
    assert [event.type for event in await events_of(ctx, job)].count("claimed") == 2


@in_virtual_time
async def test_the_repeat_of_a_granted_claim_is_given_the_same_grant_in_the_crowd_and_after_it() -> None:
    ctx = coordinator(CountingStore())
    factories = await herd(ctx, 10)
    job = await submitted(ctx)
    outcomes = await at_once([*factories, *factories], job)
    grants = [one for one in outcomes if isinstance(one, Grant)]
    assert told(outcomes) == {"granted": 2, "conflict": 18}
    winner = factories[outcomes.index(grants[0]) % len(factories)]
    again = await winner.granted("r1", job)
    assert len({(one.job_id, one.lease_epoch, one.run_id, one.request_id) for one in (*grants, again)}) == 1
    assert (await job_now(ctx, job)).attempt == 1


@in_virtual_time
async def test_another_request_of_the_holder_is_refused_like_anybodys() -> None:
    ctx = coordinator(CountingStore())
    holder = await FakeFactory(ctx).joined()
    job = await submitted(ctx)
    await holder.granted("r1", job)
    assert await at_once([holder], job, "r2") == [ErrorCode.CONFLICT]


@in_virtual_time
async def test_a_request_whose_grant_has_ended_is_refused() -> None:
    ctx = coordinator(CountingStore())
    holder = await FakeFactory(ctx).joined()
    job = await submitted(ctx)
    await holder.report(await holder.granted("r1", job))
    assert await at_once([holder], job) == [ErrorCode.CONFLICT]


async def of_the_bank(ctx: Context) -> Job:
    return (await intake.submit(ctx, intake.Submission(manifest(), BANK, "one"), "operator:bob")).job


@in_virtual_time
async def test_who_is_not_enrolled_for_the_product_learns_nothing_of_its_jobs() -> None:
    ctx = coordinator(CountingStore())
    inside = await FakeFactory(ctx, "inside", products=(BANK,)).joined()
    outside = await FakeFactory(ctx, "outside", products=(PRODUCT,)).joined()
    job = await of_the_bank(ctx)

    async def answer(named: Job) -> FleetError:
        with pytest.raises(FleetError) as refused:
            await outside.claim("r1", named)
        return refused.value

    queued = await answer(job)
    grant = await inside.granted("r1", job)
    taken = await answer(job)
    await inside.report(grant)
    finished = await answer(job)
    none_such = await answer(job.model_copy(update={"id": "j-none-such"}))
    assert queued.code is ErrorCode.FORBIDDEN
    for other in (taken, finished, none_such):
        assert (other.code, other.message, other.detail) == (queued.code, queued.message, queued.detail)


@pytest.mark.parametrize("taken", [True, False])
@in_virtual_time
async def test_who_is_not_enrolled_at_all_learns_nothing_of_the_job(taken: bool) -> None:
    ctx = coordinator(CountingStore())
    job = await submitted(ctx)
    if taken:
        await (await FakeFactory(ctx, "holds").joined()).granted("r1", job)
    with pytest.raises(FleetError, match="factory nobody is not enrolled") as refused:
        await FakeFactory(ctx, "nobody").claim("r1", job)
    assert refused.value.code is ErrorCode.NOT_FOUND


@in_virtual_time
async def test_where_the_first_is_refused_for_its_own_sake_the_next_has_the_job() -> None:
    store = CountingStore()
    ctx = coordinator(store)
    factories = [
        await FakeFactory(ctx, "without").joined(),
        await FakeFactory(ctx, "too-without").joined(),
        await FakeFactory(ctx, "with", capabilities=("gpu",)).joined(),
        await FakeFactory(ctx, "with-too", capabilities=("gpu",)).joined(),
    ]
    job = await submitted(ctx, capabilities="[gpu]")
    store.forget()
    without, too, granted, late = await at_once(factories, job)
    assert (without, too, late) == (ErrorCode.NO_CAPABILITY, ErrorCode.NO_CAPABILITY, ErrorCode.CONFLICT)
    assert isinstance(granted, Grant)
    assert store.writes_to(JOBS) == 1


@pytest.mark.parametrize("goes_away", [True, False], ids=["it goes away", "the store fails it"])
@in_virtual_time
async def test_where_the_first_breaks_off_the_next_has_the_job(goes_away: bool) -> None:
    store = FaultyStore(CountingStore())
    ctx = coordinator(store)
    first, *others = await herd(ctx, 5)
    job = await submitted(ctx)
    if not goes_away:
        store.script("query", never_applied)  # what the first one holds
    breaks = asyncio.create_task(first.claim("r1", job))
    rest = asyncio.create_task(at_once(others, job))
    await asyncio.sleep(1.5 * LATENCY_S)
    if goes_away:
        breaks.cancel()
    assert told(await rest) == {"granted": 1, "conflict": 3}
    with pytest.raises(asyncio.CancelledError if goes_away else StoreError):
        await breaks
    assert not ctx.precedence.is_asked(job.key)


@in_virtual_time
async def test_a_crowd_for_a_job_that_does_not_exist_is_told_so() -> None:
    ctx = coordinator(CountingStore())
    factories = await herd(ctx, 10)
    job = (await submitted(ctx)).model_copy(update={"id": "j-none-such"})
    assert told(await at_once(factories, job)) == {"not_found": 10}
    assert not ctx.precedence.is_asked(job.key)


@in_virtual_time
async def test_a_crowd_beside_one_who_names_none_has_one_winner() -> None:
    ctx = coordinator(CountingStore())
    names_none, *others = await herd(ctx, 10)
    job = await submitted(ctx)
    unnamed = asyncio.create_task(names_none.claim("best"))
    outcomes = await at_once(others, job)
    granted = [one for one in outcomes if isinstance(one, Grant)] + list((await unnamed).grants)
    assert [grant.job_id for grant in granted] == [job.id]
    assert (await job_now(ctx, job)).attempt == 1
