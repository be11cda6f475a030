"""The router, whatever it is shown: its hard filters hold, its order is a function of what it sees, nobody starves."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from coordinator.scheduler.explain import explain
from coordinator.scheduler.plan import choice_of, ranked_factories, ranked_jobs, tier
from coordinator.scheduler.snapshot import FactoryView, Snapshot
from schemas.factory import Health
from schemas.job import Job
from schemas.outcome import Spend
from schemas.work import Budget, Engine, Priority
from tests.unit.domain.builders import saved, situations
from tests.unit.scheduler.builders import NOW, factory, job, snapshot
from tests.unit.scheduler.test_score import TERMS

CAPABILITIES = ["gpu", "python", "xcode"]
ROOTS = ["/home/ann", "/work"]
PRODUCTS = ["bank", "shop"]
FACTORIES = ["f1", "f2", "f3", "f4", "f5"]
TIERS = [Priority.CRITICAL, Priority.HIGH, Priority.NORMAL, Priority.LOW]
HALF_HOUR_S = 1800.0


def some(values: list[Any], least: int = 0) -> st.SearchStrategy[frozenset[Any]]:
    return st.frozensets(st.sampled_from(values), min_size=least)


def maybe(values: list[str]) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(values)


CHECKPOINTS = st.none() | maybe(FACTORIES).map(lambda where: saved(local=where))
MOMENTS = st.integers(-60, 60).map(lambda minutes: NOW + timedelta(minutes=minutes))

JOBS = st.builds(
    lambda waited_s, spent, caps, **fields: job(
        waited_s=waited_s, spend=Spend(usd=spent), capabilities=tuple(sorted(caps)), **fields
    ),
    waited_s=st.integers(0, 4 * 1800),
    spent=st.integers(0, 12),
    caps=some(CAPABILITIES),
    product_id=st.sampled_from(PRODUCTS),
    engine=st.sampled_from([Engine.SHELL, Engine.CLAUDE]),
    priority=st.sampled_from(TIERS),
    lock=maybe(["repo", "db"]),
    cwd=maybe(["/work/shop", "/home/ann", "/etc"]),
    repo=maybe(["a.git", "b.git"]),
    budget=st.sampled_from([Budget(), Budget(usd=10)]),
    checkpoint=CHECKPOINTS,
    last_factory_id=maybe(FACTORIES),
)
VIEWS = st.builds(
    FactoryView,
    id=st.sampled_from(FACTORIES),
    products=some(PRODUCTS),
    capabilities=some(CAPABILITIES),
    engines=some([Engine.SHELL, Engine.CLAUDE]),
    workspaces=some(ROOTS).map(lambda roots: tuple(sorted(roots))),
    seat_limit=st.integers(1, 3),
    seats_used=st.integers(0, 4),
    health=st.sampled_from(Health),
    draining=st.booleans(),
    gated=st.dictionaries(st.sampled_from([Engine.SHELL, Engine.CLAUDE]), MOMENTS),
    last_repos=some(["a.git", "b.git"]),
)


def numbered(jobs: list[Job]) -> list[Job]:
    return [one.model_copy(update={"id": f"job-{number}"}) for number, one in enumerate(jobs)]


QUEUES = st.lists(JOBS, max_size=8).map(numbered)
SNAPSHOTS = st.builds(
    Snapshot,
    now=st.just(NOW),
    factories=st.lists(VIEWS, max_size=5, unique_by=lambda view: view.id).map(tuple),
    locks=st.dictionaries(st.tuples(st.sampled_from(PRODUCTS), st.sampled_from(["repo", "db"])), st.just("other")),
    closed_budgets=some(PRODUCTS),
)


def fits(job: Job, view: FactoryView, moment: Snapshot) -> bool:
    """The router's hard filters, said once more and without their reasons."""
    gate = view.gated.get(job.engine)
    return (
        set(job.capabilities) <= view.capabilities
        and job.engine in view.engines
        and (gate is None or gate <= moment.now)
        and job.product_id in view.products
        and (job.cwd is None or any(job.cwd == root or job.cwd.startswith(f"{root}/") for root in view.workspaces))
        and (job.checkpoint is None or job.checkpoint.local in (None, view.id))
        and view.health in (Health.HEALTHY, Health.DEGRADED)
        and not view.draining
        and view.seats_used < view.seat_limit
        and (job.product_id, job.lock) not in moment.locks
        and job.product_id not in moment.closed_budgets
    )


@given(QUEUES, VIEWS, SNAPSHOTS)
def test_a_factory_is_ranked_just_the_jobs_that_it_can_be_given(
    jobs: list[Job], view: FactoryView, moment: Snapshot
) -> None:
    ranked = ranked_jobs(jobs, view, moment)
    assert sorted(one.id for one in ranked) == sorted(one.id for one in jobs if fits(one, view, moment))


@given(JOBS, SNAPSHOTS)
def test_a_job_is_ranked_just_the_factories_that_can_be_given_it(asked: Job, moment: Snapshot) -> None:
    ranked = {one.factory_id for one in ranked_factories(asked, moment)}
    assert ranked == {view.id for view in moment.factories if fits(asked, view, moment)}


@given(QUEUES, VIEWS, SNAPSHOTS, st.randoms(use_true_random=False))
def test_the_same_inputs_give_the_same_order_however_they_come(
    jobs: list[Job], view: FactoryView, moment: Snapshot, chance: random.Random
) -> None:
    others = list(moment.factories)
    shuffled = chance.sample(jobs, len(jobs))
    elsewhere = replace(moment, factories=tuple(chance.sample(others, len(others))))
    assert ranked_jobs(shuffled, view, elsewhere) == ranked_jobs(jobs, view, moment)
    for one in jobs:
        assert ranked_factories(one, elsewhere) == ranked_factories(one, moment)
        assert choice_of(one, view, elsewhere) == choice_of(one, view, moment)
        assert explain(one, elsewhere)["candidates"] == explain(one, moment)["candidates"]


@given(QUEUES, VIEWS, SNAPSHOTS)
def test_the_order_is_by_tier_then_score_then_age_then_id(jobs: list[Job], view: FactoryView, moment: Snapshot) -> None:
    totals = {one.id: choice_of(one, view, replace(moment, factories=(view,))).candidates[0] for one in jobs}

    def position(one: Job) -> tuple[int, float, datetime, str]:
        own = TIERS.index(one.priority)
        waited = int((NOW - one.waiting_since).total_seconds() // HALF_HOUR_S)
        return (own and max(1, own - waited), -totals[one.id]["score"], one.waiting_since, one.id)

    ranked = ranked_jobs(jobs, view, moment)
    assert [position(one)[0] for one in ranked] == sorted(position(one)[0] for one in ranked)
    for first, second in pairwise(ranked):
        if abs(totals[first.id]["score"] - totals[second.id]["score"]) > 1e-5:  # they are rounded to be read
            assert position(first) < position(second)


def test_equal_jobs_come_by_age_and_then_by_id() -> None:
    old = [job(name, waited_s=4000.0) for name in ("b", "a")]
    older = job("c", waited_s=4001.0)
    view = factory()
    assert [one.id for one in ranked_jobs([*old, older], view, snapshot(view))] == ["c", "a", "b"]


@given(st.lists(some(CAPABILITIES), min_size=2, max_size=5), some(CAPABILITIES))
def test_all_else_equal_the_tightest_fit_wins(owned: list[frozenset[str]], required: frozenset[str]) -> None:
    views = [factory(f"f{n}", capabilities=caps | required) for n, caps in enumerate(owned)]
    ranked = ranked_factories(job(capabilities=tuple(required)), snapshot(*views))
    sizes = {view.id: len(view.capabilities) for view in views}
    assert [sizes[one.factory_id] for one in ranked] == sorted(sizes.values())


@given(JOBS, st.integers(0, 100 * 1800))
def test_waiting_never_lowers_a_tier_nor_lifts_one_into_critical(asked: Job, more_s: int) -> None:
    before, after = tier(asked, NOW), tier(asked, NOW + timedelta(seconds=more_s))
    assert after <= before
    assert (after == 0) == (asked.priority is Priority.CRITICAL)


FRESH = st.lists(JOBS.map(lambda one: one.model_copy(update={"waiting_since": NOW})), max_size=8).map(numbered)
ANYTHING = factory(
    products=frozenset(PRODUCTS),
    capabilities=frozenset(CAPABILITIES),
    engines=frozenset(Engine),
    workspaces=("/",),
    seat_limit=3,
    last_repos=frozenset({"a.git"}),
)


def waited_first_of(fresh: list[Job], old: Job) -> bool:
    """Whether `old` stands before all of the fresh ones that are not critical, for a factory that can do them all."""
    ranked = ranked_jobs([*fresh, old], ANYTHING, snapshot(ANYTHING))
    before = ranked[: ranked.index(old)]
    return all(one.priority is Priority.CRITICAL for one in before)


def can_be_done(old: Job) -> Job:
    return old.model_copy(update={"id": "old", "priority": Priority.LOW, "checkpoint": None})


@given(JOBS.map(can_be_done), FRESH)
def test_after_an_hour_a_low_job_stands_before_every_fresh_one_below_critical(old: Job, fresh: list[Job]) -> None:
    """Where none has spent of a budget of its own: what is left of it is the one term that age does not outweigh."""
    hour_old = {"waiting_since": NOW - timedelta(hours=1), "budget": Budget()}
    assert waited_first_of(fresh, old.model_copy(update=hour_old))


@given(JOBS.map(can_be_done), FRESH)
def test_before_an_hour_a_low_job_stands_behind_every_high_one(old: Job, fresh: list[Job]) -> None:
    young = old.model_copy(update={"waiting_since": NOW - timedelta(minutes=59)})
    high = [one for one in fresh if one.priority is Priority.HIGH]
    ranked = ranked_jobs([*high, young], ANYTHING, snapshot(ANYTHING))
    assert ranked[-1] == young


def test_enough_waiting_lifts_a_job_before_fresh_ones_even_when_its_own_budget_is_spent() -> None:
    old = job("old", waited_s=30 * 86400.0, budget=Budget(usd=10), spend=Spend(usd=10), priority=Priority.LOW)
    fresh = job("fresh", repo="a.git", capabilities=tuple(CAPABILITIES), priority=Priority.HIGH)
    assert waited_first_of([fresh], old)


def test_enough_waiting_lifts_a_job_before_those_that_have_waited_ten_minutes() -> None:
    old = job("old", waited_s=30 * 86400.0, priority=Priority.LOW)
    fitting = job("fitting", waited_s=600.0, repo="a.git", capabilities=tuple(CAPABILITIES), priority=Priority.HIGH)
    assert waited_first_of([fitting], old)


@given(QUEUES, SNAPSHOTS)
def test_whatever_waits_is_explained_with_each_candidate_and_all_of_its_terms(
    jobs: list[Job], moment: Snapshot
) -> None:
    for one in [*jobs, *situations().values()]:
        told = explain(one, moment)
        assert told["reason"].endswith(".")
        asked = set() if one.is_finished else {view.id for view in moment.factories}
        assert {row["factoryId"] for row in told["candidates"]} == asked
        for row in told["candidates"]:
            assert set(row["terms"]) == TERMS
            assert row["feasible"] == (not row["obstacles"])
        feasible = [row["feasible"] for row in told["candidates"]]
        assert feasible == sorted(feasible, reverse=True)
        if one in jobs:
            assert ("within seconds" in told["reason"]) == any(feasible)
            assert any(feasible) != bool(told["wouldStartIf"])
