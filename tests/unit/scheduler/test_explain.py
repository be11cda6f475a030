"""Why a job is where it is: one sentence that a person can act on, for every stage and every obstacle."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from coordinator.scheduler.explain import explain
from coordinator.scheduler.feasible import maps, obstacles
from coordinator.scheduler.snapshot import FactoryView
from schemas.factory import Health
from schemas.job import Job
from schemas.work import Engine
from tests.support.fleet import PRODUCT
from tests.unit.domain.builders import saved, situations
from tests.unit.scheduler.builders import NOW, factory, job, snapshot
from tests.unit.scheduler.test_score import TERMS

SITUATIONS = situations()


def reason(asked: Job, *views: FactoryView, **fields: Any) -> str:
    told: str = explain(asked, snapshot(*views, **fields))["reason"]
    return told


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_situation_has_one_sentence_since_when_and_each_candidate_with_all_terms(situation: str) -> None:
    asked = SITUATIONS[situation]
    told = explain(asked, snapshot(factory("f1"), factory("f2", health=Health.DOWN)))
    assert told["reason"].endswith(".")
    assert told["reason"].count(". ") == 0
    assert (told["jobId"], told["stage"]) == (asked.id, asked.stage)
    assert told["since"] == "2030-01-01T00:00:00.000000Z"
    if asked.is_finished:
        assert told["candidates"] == [], "nobody is asked any more"
        return
    assert [row["factoryId"] for row in told["candidates"]] == ["f1", "f2"]
    assert [row["feasible"] for row in told["candidates"]] == [True, False]
    for row in told["candidates"]:
        assert set(row["terms"]) == TERMS
        assert bool(row["obstacles"]) != row["feasible"]


@pytest.mark.parametrize(
    ("situation", "words"),
    [
        ("blocked on deps", "waits for all of: dep"),
        ("blocked on budget", "raise it and requeue"),
        ("blocked on children", "children"),
        ("assigned", "held by f1, term 1"),
        ("building, told to cancel", "a cancel was asked for"),
        ("review", "1 more approval"),
        ("testing", "waits for a person to ship it"),
        ("failed, to be retried", "tried again at 2030-01-01 00:00:30Z"),
        ("failed for good", "It ended as cancelled"),
        ("dead_letter", "It ended as engine_failed"),
        ("shipped", "finished (shipped)"),
    ],
)
def test_the_sentence_says_what_it_is_about(situation: str, words: str) -> None:
    assert words in reason(SITUATIONS[situation], factory())


@pytest.mark.parametrize(
    ("fields", "views", "words"),
    [
        ({}, (), "No factory is enrolled"),
        ({}, (factory(),), "should start within seconds"),
        ({}, (factory(products=frozenset({"bank"})),), "No factory is enrolled for product shop"),
        ({"engine": Engine.CODEX}, (factory(),), "No factory offers engine codex"),
        ({"capabilities": ("gpu", "xcode")}, (factory(capabilities=frozenset({"gpu"})),), "the capability xcode"),
        ({"cwd": "/work/x"}, (factory(workspaces=("/home",)),), "workspace for /work/x"),
        ({}, (factory(seats_used=2),), "all 2 seats of f1 are taken"),
        ({}, (factory(health=Health.DOWN),), "f1 is down"),
        ({}, (factory(draining=True),), "f1 is draining"),
        ({}, (factory(gated={Engine.SHELL: NOW + timedelta(hours=1)}),), "used up until 01:00:00Z"),
    ],
)
def test_a_job_that_waits_says_for_what(fields: dict[str, Any], views: tuple[FactoryView, ...], words: str) -> None:
    told = explain(job(**fields), snapshot(*views))
    assert words in told["reason"]
    assert told["wouldStartIf"] or "within seconds" in told["reason"]


def test_a_busy_lock_and_a_closed_budget_come_before_any_factory() -> None:
    waits = job(lock="repo")
    assert "lock 'repo' is held by other" in reason(waits, factory(), locks={(PRODUCT, "repo"): "other"})
    assert "shop starts nothing new" in reason(waits, factory(), closed_budgets=frozenset({PRODUCT}))


def test_no_single_factory_with_all_of_it_is_named_as_that() -> None:
    views = (factory("f1", capabilities=frozenset({"gpu"})), factory("f2", capabilities=frozenset({"xcode"})))
    assert "No single factory has all of: shell, gpu, xcode" in reason(job(capabilities=("gpu", "xcode")), *views)


def test_no_single_factory_with_all_of_it_is_not_blamed_on_a_workspace_that_all_have() -> None:
    views = [
        factory("f1", capabilities=frozenset({"gpu"}), workspaces=("/work",)),
        factory("f2", capabilities=frozenset({"xcode"}), workspaces=("/work",)),
    ]
    assert "workspace" not in reason(job(capabilities=("gpu", "xcode"), cwd="/work/x"), *views)


@pytest.mark.parametrize("cwd", [None, "/work/x"])
def test_work_that_lies_on_one_machine_alone_waits_for_that_machine(cwd: str | None) -> None:
    """The factory that is there has all that the job asks for; only `gone` has what was done so far."""
    told = explain(job(checkpoint=saved(local="gone"), cwd=cwd), snapshot(factory(workspaces=("/work",))))
    assert "gone" in told["reason"]
    assert "gone" in " ".join(told["wouldStartIf"])


def test_every_obstacle_of_a_factory_is_told_not_just_the_first() -> None:
    view = factory(
        products=frozenset(), engines=frozenset(), health=Health.DOWN, draining=True, seats_used=2, workspaces=()
    )
    asked = job(capabilities=("gpu",), cwd="/x", lock="repo", checkpoint=saved(local="f9"))
    moment = snapshot(view, locks={(PRODUCT, "repo"): "other"}, closed_budgets=frozenset({PRODUCT}))
    assert {one.filter for one in obstacles(asked, view, moment)} == {
        "enrolment", "capability", "engine", "workspace", "checkpoint", "health", "draining", "seats", "lock", "budget",
    }  # fmt: skip


@pytest.mark.parametrize(("seconds", "gated"), [(-1, False), (0, False), (1, True)])
def test_a_credential_is_gated_until_its_time_and_no_longer(seconds: int, gated: bool) -> None:
    view = factory(gated={Engine.SHELL: NOW + timedelta(seconds=seconds), Engine.CLAUDE: NOW + timedelta(days=1)})
    assert bool(obstacles(job(), view, snapshot(view))) == gated


@pytest.mark.parametrize(
    ("root", "path", "inside"),
    [
        ("/work", "/work", True),
        ("/work", "/work/shop", True),
        ("/work/", "/work/shop", True),
        ("/", "/anything", True),
        ("/work", "/workshop", False),
        ("/work", "/", False),
        ("/work/shop", "/work", False),
        ("/work", "work/shop", False),
        ("/work", "/work/../etc", False),
        ("/work", "/work/shop/../../etc/passwd", False),
    ],
)
def test_a_path_is_inside_a_root_or_it_is_not(root: str, path: str, inside: bool) -> None:
    assert maps(root, path) == inside
