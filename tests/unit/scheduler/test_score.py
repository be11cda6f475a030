"""Each term of the score, in exact numbers; their weighted sum; and the tier that comes before it."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.scheduler.plan import choice_of, tier
from coordinator.scheduler.score import (
    affinity,
    capability_fit,
    cost_fit,
    score,
    starvation_penalty,
)
from coordinator.scheduler.snapshot import DEFAULT_WEIGHTS, Weights, age_s
from schemas.factory import Health
from schemas.outcome import Spend
from schemas.work import Budget, Priority
from tests.unit.domain.builders import saved
from tests.unit.scheduler.builders import NOW, factory, job, snapshot

MINUTE_S = 60.0
TERMS = {"capabilityFit", "affinity", "load", "costFit", "health", "starvationPenalty"}


@pytest.mark.parametrize(
    ("required", "owned", "fit"),
    [
        ((), (), 1.0),
        ((), ("gpu",), 1 / 2),
        ((), ("gpu", "python", "xcode"), 1 / 4),
        (("python",), ("python",), 1.0),
        (("python",), ("gpu", "python", "xcode"), 2 / 4),
        (("gpu", "python"), ("gpu", "python", "xcode"), 3 / 4),
    ],
)
def test_capability_fit_is_one_more_than_required_over_one_more_than_owned(
    required: tuple[str, ...], owned: tuple[str, ...], fit: float
) -> None:
    assert capability_fit(job(capabilities=required), factory(capabilities=frozenset(owned))) == fit


@pytest.mark.parametrize(
    ("fields", "repos", "expected"),
    [
        ({}, (), 0.0),
        ({"checkpoint": saved(local="f1")}, (), 1.0),
        ({"checkpoint": saved(local="f2")}, (), 0.0),
        ({"checkpoint": saved(), "last_factory_id": "f1"}, (), 1.0),
        ({"checkpoint": saved(), "last_factory_id": "f2"}, (), 0.0),
        ({"last_factory_id": "f1"}, (), 0.0),
        ({"repo": "shop.git"}, ("shop.git", "bank.git"), 1.0),
        ({"repo": "shop.git"}, ("bank.git",), 0.0),
        ({"repo": "shop.git", "checkpoint": saved(), "last_factory_id": "f2"}, ("shop.git",), 1.0),
    ],
)
def test_affinity_is_one_where_the_checkpoint_lies_or_the_repo_was_worked_on_last(
    fields: dict[str, Any], repos: tuple[str, ...], expected: float
) -> None:
    assert affinity(job(**fields), factory(last_repos=frozenset(repos))) == expected


@pytest.mark.parametrize(
    ("budget_usd", "spent_usd", "fit"),
    [(None, 0, 1.0), (None, 50, 1.0), (10, 0, 1.0), (10, 2.5, 0.75), (10, 10, 0.0), (10, 12, 0.0), (10, -2, 1.0)],
)
def test_cost_fit_is_the_share_of_the_budget_that_is_left(
    budget_usd: float | None, spent_usd: float, fit: float
) -> None:
    assert cost_fit(job(budget=Budget(usd=budget_usd), spend=Spend(usd=spent_usd))) == fit


@pytest.mark.parametrize(
    ("waited_min", "penalty"), [(-5, 1.0), (0, 1.0), (7.5, 0.75), (15, 0.5), (27, 0.1), (30, 0.0), (3000, 0.0)]
)
def test_the_starvation_penalty_falls_from_one_to_zero_over_thirty_minutes(waited_min: float, penalty: float) -> None:
    assert starvation_penalty(waited_min * MINUTE_S) == pytest.approx(penalty)


@pytest.mark.parametrize(
    ("used", "limit", "term"), [(0, 4, 1.0), (1, 4, 1 / 1.25), (2, 4, 1 / 1.5), (4, 4, 0.5), (9, 4, 0.5)]
)
def test_load_is_seats_in_use_over_seats(used: int, limit: int, term: float) -> None:
    busy = factory(seats_used=used, seat_limit=limit)
    assert score(job(), busy, snapshot(busy)).terms["load"] == term


@pytest.mark.parametrize(("health", "term"), [(Health.HEALTHY, 1.0), (Health.DEGRADED, 0.5)])
def test_health_is_one_or_a_half(health: Health, term: float) -> None:
    view = factory(health=health)
    assert score(job(), view, snapshot(view)).terms["health"] == term


def test_the_default_weights_are_the_specs() -> None:
    assert (
        DEFAULT_WEIGHTS.capability_fit,
        DEFAULT_WEIGHTS.affinity,
        DEFAULT_WEIGHTS.load,
        DEFAULT_WEIGHTS.cost_fit,
        DEFAULT_WEIGHTS.health,
        DEFAULT_WEIGHTS.starvation,
    ) == (1.0, 0.5, 1.0, 0.75, 1.0, 1.5)


def test_the_score_is_the_weighted_sum_of_its_terms() -> None:
    view = factory(capabilities=frozenset({"gpu"}), seats_used=1, health=Health.DEGRADED, last_repos=frozenset({"r"}))
    asked = job(waited_s=15 * MINUTE_S, repo="r", budget=Budget(usd=10), spend=Spend(usd=5))
    scored = score(asked, view, snapshot(view))
    assert set(scored.terms) == TERMS
    assert scored.total == pytest.approx(1.0 * 0.5 + 0.5 * 1 + 1.0 / 1.5 + 0.75 * 0.5 + 1.0 * 0.5 - 1.5 * 0.5)


def test_each_product_has_its_own_weights() -> None:
    view = factory(products=frozenset({"shop", "bank"}))
    moment = snapshot(view, weights={"bank": Weights("bank-7", 0, 0, 0, 0, 10, 0)})
    assert score(job(product_id="bank"), view, moment).total == 10
    assert score(job(), view, moment).total == pytest.approx(1 + 0 + 1 + 0.75 + 1 - 1.5)
    assert choice_of(job(product_id="bank"), view, moment).weights_version == "bank-7"


@pytest.mark.parametrize(
    ("priority", "waited_min", "expected"),
    [
        (Priority.CRITICAL, 0, 0),
        (Priority.CRITICAL, 600, 0),
        (Priority.HIGH, 0, 1),
        (Priority.HIGH, 600, 1),
        (Priority.NORMAL, 29.99, 2),
        (Priority.NORMAL, 30, 1),
        (Priority.LOW, 0, 3),
        (Priority.LOW, 30, 2),
        (Priority.LOW, 60, 1),
        (Priority.LOW, 60_000, 1),
    ],
)
def test_each_thirty_minutes_lift_one_tier_and_never_into_critical(
    priority: Priority, waited_min: float, expected: int
) -> None:
    assert tier(job(waited_s=waited_min * MINUTE_S, priority=priority), NOW) == expected


def test_a_job_from_a_clock_ahead_of_ours_has_no_age_yet() -> None:
    assert age_s(job(waited_s=-90), NOW) == 0.0


def test_a_grants_record_has_its_factory_and_its_rivals_with_all_terms() -> None:
    views = [factory("f1", capabilities=frozenset({"gpu"})), factory("f2"), factory("f3", draining=True)]
    choice = choice_of(job(), views[0], snapshot(*views))
    assert [one["factoryId"] for one in choice.candidates] == ["f2", "f1"]
    assert all(set(one["terms"]) == TERMS for one in choice.candidates)
    assert choice.terms == choice.candidates[1]["terms"]
    assert (choice.weights_version, choice.propensity) == ("default-1", 1.0)


def test_a_grants_record_names_its_factory_however_many_would_have_fitted_better() -> None:
    worst = factory("worst", capabilities=frozenset({"gpu", "xcode"}))
    choice = choice_of(job(), worst, snapshot(worst, *[factory(f"f{n}") for n in range(20)]))
    assert "worst" in [one["factoryId"] for one in choice.candidates]
