"""The atomic claim: whatever the number of claimers and coordinators, one is granted the job, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from coordinator.context import Context
from coordinator.loops.reaper import Reaper
from coordinator.store.memory import MemoryStore
from coordinator.store.port import Store
from coordinator.store.sqlite import SqliteStore
from runtime.clock import SystemClock
from schemas.errors import ErrorCode, FleetError
from schemas.ids import JobKey
from schemas.job import Stage
from schemas.messages import Grant
from tests.support.fleet import FakeFactory, coordinator, events_of, job_now, leases_in, runs_in, submitted
from tests.support.racy import RacyStore

Claims = list[Grant | BaseException]


async def claim_all(contexts: list[Context], claimers: int, **keys: str) -> tuple[Context, Claims, str]:
    job = await submitted(contexts[0], **keys)
    fleet = [await FakeFactory(contexts[n % len(contexts)], id=f"f{n}").joined() for n in range(claimers)]
    answers = await asyncio.gather(*(each.granted(f"r{each.id}", job) for each in fleet), return_exceptions=True)
    return contexts[0], list(answers), job.id


async def check_one_winner(ctx: Context, answers: Claims) -> None:
    """Exactly one grant, epoch 1, one run, one lease; everybody else a clear conflict."""
    winners = [answer for answer in answers if isinstance(answer, Grant)]
    assert len(winners) == 1, f"{len(winners)} claimers were told that they hold it"
    losers = [answer for answer in answers if not isinstance(answer, Grant)]
    assert all(isinstance(answer, FleetError) and answer.code is ErrorCode.CONFLICT for answer in losers), losers
    job = await job_now(ctx, JobKey(winners[0].product_id, winners[0].job_id))
    assert (job.stage, job.lease_epoch, job.granted_epoch, job.attempt) == (Stage.ASSIGNED, 1, 1, 1)
    assert job.holder is not None
    assert job.holder.request_id == winners[0].request_id
    assert [run.factory_id for run in await runs_in(ctx, job)] == [job.holder.factory_id]
    assert [lease.holder_factory_id for lease in await leases_in(ctx, job)] == [job.holder.factory_id]
    assert [event.type for event in await events_of(ctx, job)] == ["submitted", "claimed"]


class ClaimRaces:
    """Given any store; `contexts` are coordinators that share it."""

    @pytest.fixture
    async def store(self) -> Store:
        raise AssertionError("the subclass gives the store")

    @pytest.fixture(params=[1, 2], ids=["one coordinator", "two coordinators"])
    def contexts(self, store: Store, request: pytest.FixtureRequest) -> list[Context]:
        return [coordinator(store, clock=SystemClock(), seed=n) for n in range(request.param)]

    @pytest.mark.parametrize("claimers", [2, 100])
    async def test_of_concurrent_claims_one_wins(self, contexts: list[Context], claimers: int) -> None:
        ctx, answers, _ = await claim_all(contexts, claimers)
        await check_one_winner(ctx, answers)

    async def test_two_jobs_with_one_lock_are_never_held_at_once(self, contexts: list[Context]) -> None:
        jobs = [await submitted(contexts[0], f"job{n}", lock="repo") for n in range(4)]
        fleet = [await FakeFactory(contexts[n % len(contexts)], id=f"f{n}").joined() for n in range(4)]
        answers = await asyncio.gather(
            *(each.granted("r1", job) for each, job in zip(fleet, jobs, strict=True)), return_exceptions=True
        )
        assert sum(isinstance(answer, Grant) for answer in answers) == 1
        held = [job for job in [await job_now(contexts[0], one) for one in jobs] if job.held]
        assert len(held) == 1
        winner = next(n for n, answer in enumerate(answers) if isinstance(answer, Grant))
        await fleet[winner].report(answers[winner])  # type: ignore[arg-type]
        again = await fleet[(winner + 1) % 4].granted("r2", jobs[(winner + 1) % 4])
        assert again.lease_epoch == 1

    async def test_renewals_under_contention_all_hold_the_one_lease(self, contexts: list[Context]) -> None:
        job = await submitted(contexts[0])
        holder = await FakeFactory(contexts[0]).joined()
        grant = await holder.granted("r1", job)
        answers = await asyncio.gather(
            *(holder.on(contexts[n % len(contexts)]).renew(grant) for n in range(30)),
        )
        assert all(0 < answer.term.lease_left_s <= 60 for answer in answers)
        assert len(await leases_in(contexts[0], job)) == 1

    async def test_a_retry_after_a_lost_answer_at_another_coordinator_gives_the_same_grant(
        self, contexts: list[Context]
    ) -> None:
        await submitted(contexts[0], "one")
        await submitted(contexts[0], "two")
        factory = await FakeFactory(contexts[0]).joined()
        first = await factory.granted("r1")
        repeated = await factory.on(contexts[-1]).granted("r1")
        assert (repeated.job_id, repeated.lease_epoch) == (first.job_id, first.lease_epoch)

    async def test_a_report_racing_the_reaper_takes_effect_once(self, contexts: list[Context]) -> None:
        job = await submitted(contexts[0], verify='"true"')
        factory = await FakeFactory(contexts[0]).joined()
        grant = await factory.granted("r1", job)
        await factory.start(grant)
        late = contexts[-1].clock.now() + timedelta(seconds=120)
        report, _ = await asyncio.gather(
            factory.report(grant), Reaper(contexts[-1]).run_once(late), return_exceptions=True
        )
        after = await job_now(contexts[0], job)
        types = [event.type for event in await events_of(contexts[0], job)]
        assert not isinstance(report, BaseException)
        if report.report is not None:
            assert after.stage is Stage.SHIPPED
            assert types[-2:] == ["reported", "shipped"]
        else:
            assert (after.stage, after.lease_epoch) == (Stage.QUEUED, 2)
            assert types[-1] == "reaped"
        assert types.count("reported") + types.count("reaped") == 1

    async def test_a_renewal_racing_the_reaper_is_either_kept_or_refused(self, contexts: list[Context]) -> None:
        job = await submitted(contexts[0])
        factory = await FakeFactory(contexts[0]).joined()
        grant = await factory.granted("r1", job)
        late = contexts[-1].clock.now() + timedelta(seconds=120)
        renewal, _ = await asyncio.gather(
            factory.renew(grant), Reaper(contexts[-1]).run_once(late), return_exceptions=True
        )
        after = await job_now(contexts[0], job)
        if isinstance(renewal, FleetError):
            assert renewal.code is ErrorCode.FENCED
            assert after.lease_epoch == 2
        else:
            await Reaper(contexts[-1]).run_once(late)
            assert (await job_now(contexts[0], job)).lease_epoch == 2


class TestClaimRacesInMemory(ClaimRaces):
    @pytest.fixture
    async def store(self) -> Store:
        return MemoryStore()


class TestClaimRacesInMemoryWithoutTransactionsOverContainers(ClaimRaces):
    @pytest.fixture
    async def store(self) -> Store:
        return MemoryStore(atomic_then=False)


class TestClaimRacesOnSqlite(ClaimRaces):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = SqliteStore(tmp_path)
        await store.open()
        yield store
        await store.close()


async def test_these_tests_catch_a_store_that_reads_awaits_and_writes() -> None:
    contexts = [coordinator(RacyStore(), clock=SystemClock(), seed=n) for n in range(2)]
    contexts[1] = coordinator(contexts[0].store, clock=SystemClock(), seed=2)
    ctx, answers, _ = await claim_all(contexts, 10)
    with pytest.raises(AssertionError, match="claimers were told that they hold it"):
        await check_one_winner(ctx, answers)
