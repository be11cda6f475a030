"""A guard changes exactly when a term begins or ends, and takes or gives back exactly what that term is about."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.decide import decide
from coordinator.domain.guards import Guards, Needs, needs, settle
from coordinator.domain.ops import Rejected
from coordinator.domain.table import Action
from schemas.guards import LedgerGuard, LockGuard
from schemas.job import Job
from schemas.outcome import Outcome, Spend
from schemas.work import Budget
from tests.support.fleet import PRODUCT
from tests.unit.domain.builders import (
    ASK,
    LATER,
    NOW,
    building,
    cancel,
    checkpoint,
    claim,
    new,
    release,
    report,
    reports,
    situations,
    start,
    then,
    with_insights,
)

LOCK, LEDGER, BOTH = Needs(True, False), Needs(False, True), Needs(True, True)
CENTS = st.integers(0, 400).map(lambda quarters: quarters / 4)


def lock_of(job: Job, epoch: int = 1) -> LockGuard:
    return LockGuard(id="lock:repo", product_id=PRODUCT, job_id=job.id, lease_epoch=epoch)


def ledger(**fields: object) -> LedgerGuard:
    return LedgerGuard.model_validate({"id": "ledger", "product_id": PRODUCT, **fields})


def settled(before: Job, after: Job, guards: Guards, need: Needs) -> tuple[Job, Guards]:
    outcome = settle(before, after, guards, need)
    assert not isinstance(outcome, Rejected), outcome
    return outcome


@pytest.mark.parametrize("budgets", [True, False])
@pytest.mark.parametrize("lock", ["repo", None])
def test_exactly_a_terms_first_and_last_step_need_guards(lock: str | None, budgets: bool) -> None:
    for job in situations().values():
        job = job.model_copy(update={"lock": lock})
        for ask in ASK.values():
            after = decide(job, ask(job), LATER)
            if isinstance(after, Job):
                turns = ask is ASK[Action.CLAIM] or (job.held and not after.held)
                assert needs(job, after, budgets=budgets) == (turns and lock is not None, turns and budgets)


def test_what_was_reserved_while_budgets_were_on_is_given_back_though_they_are_off() -> None:
    job = building().model_copy(update={"reserved": 2.5})
    assert needs(job, then(job, release), budgets=False) == LEDGER


@pytest.mark.parametrize("guard", [None, LockGuard(id="lock:repo", product_id=PRODUCT)])
def test_a_grant_takes_a_free_lock(guard: LockGuard | None) -> None:
    job = new(lock="repo")
    _, guards = settled(job, then(job, claim), Guards(lock=guard), LOCK)
    assert guards == Guards(lock=lock_of(job))


def test_a_grant_is_refused_while_another_job_has_the_lock() -> None:
    job = new(lock="repo")
    refused = settle(job, then(job, claim), Guards(lock=lock_of(new("other"))), LOCK)
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.detail) == ("lock_busy", {"heldBy": "other"})


@pytest.mark.parametrize("way", [release, report, reports(Outcome.TIMEOUT), ASK[Action.REAP]])
def test_every_end_of_a_term_empties_its_lock_and_keeps_the_document(way: object) -> None:
    job = building(lock="repo")
    _, guards = settled(job, then(job, way), Guards(lock=lock_of(job)), LOCK)  # type: ignore[arg-type]
    assert guards.lock == LockGuard(id="lock:repo", product_id=PRODUCT)


@pytest.mark.parametrize("guard", [None, lock_of(new("other")), lock_of(new(), epoch=9)])
def test_an_end_never_frees_a_lock_that_is_not_its_own(guard: LockGuard | None) -> None:
    job = building(lock="repo")
    with pytest.raises(AssertionError):
        settle(job, then(job, release), Guards(lock=guard), LOCK)


def test_a_paused_product_starts_nothing_and_ends_everything() -> None:
    job = new(lock="repo")
    paused = Guards(lock=None, ledger=ledger(paused=True))
    refused = settle(job, then(job, claim), paused, BOTH)
    assert isinstance(refused, Rejected)
    assert refused.reason == "budget_paused"
    held = building()
    _, guards = settled(held, then(held, report), paused, LEDGER)
    assert guards.ledger == ledger(paused=True)


@given(CENTS, CENTS, CENTS, CENTS)
def test_a_grant_reserves_what_is_left_of_the_jobs_budget(usd: float, used: float, spent: float, held: float) -> None:
    job = new().model_copy(update={"budget": Budget(usd=usd), "spend": Spend(usd=used)})
    after, guards = settled(job, then(job, claim), Guards(ledger=ledger(spent=spent, reserved=held)), LEDGER)
    assert after.reserved == max(0.0, usd - used)
    assert guards.ledger == ledger(spent=spent, reserved=held + after.reserved)


def test_a_job_without_a_budget_reserves_nothing_and_makes_the_ledger_if_there_is_none() -> None:
    job = new()
    after, guards = settled(job, then(job, claim), Guards(), LEDGER)
    assert (after.reserved, guards.ledger) == (0.0, ledger())


@given(CENTS, CENTS)
def test_an_end_gives_back_just_what_its_term_reserved_and_counts_its_cost_once(reserved: float, cost: float) -> None:
    job = building().model_copy(update={"reserved": reserved, "budget": Budget(usd=7)})
    ended = then(job, reports(Outcome.OK, insights=with_insights(cost)))
    after, guards = settled(job, ended, Guards(ledger=ledger(spent=1, reserved=reserved + 2)), LEDGER)
    assert after.reserved == 0.0
    assert guards.ledger == ledger(spent=1 + cost, reserved=2)


@given(st.data())
def test_over_any_course_the_ledger_is_the_sum_of_what_runs_and_what_ran(data: st.DataObject) -> None:
    jobs = {name: new(name).model_copy(update={"budget": Budget(usd=5)}) for name in "abc"}
    books = Guards(ledger=ledger())
    for _ in range(data.draw(st.integers(1, 30))):
        job = jobs[data.draw(st.sampled_from("abc"))]
        cost = reports(Outcome.QUOTA_EXHAUSTED, insights=with_insights(data.draw(CENTS)))
        step = data.draw(st.sampled_from([claim, start, checkpoint, release, cost, cancel, ASK[Action.REAP]]))
        decided = decide(job, step(job), NOW + timedelta(hours=1))
        if isinstance(decided, Rejected) or not (need := needs(job, decided, budgets=True)).ledger:
            jobs[job.id] = job if isinstance(decided, Rejected) else decided
            continue
        jobs[job.id], books = settled(job, decided, books, need)
        assert books.ledger is not None
        assert books.ledger.reserved == sum(one.reserved for one in jobs.values())
        assert books.ledger.spent == sum(one.spend.usd for one in jobs.values())
        assert all(one.held or one.reserved == 0 for one in jobs.values())
