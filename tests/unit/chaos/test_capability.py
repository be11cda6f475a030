from __future__ import annotations

from typing import Any

import pytest

from tests.unit.chaos.builder import COMMIT, Told, found, whole_life

NAME = "capability"


def fleet(**job: Any) -> tuple[Told, str]:
    told = Told()
    told.enrolled("f1", "gpu")
    told.up("f1", "s1", "gpu", "figma")
    return told, told.submit(**job)


def test_factories_that_fit() -> None:
    assert found(NAME, whole_life()) == []


@pytest.mark.parametrize(
    ("job", "count"),
    [
        ({"capabilities": ["gpu"]}, 0),
        ({"capabilities": ["figma"]}, 1),
        ({"capabilities": ["gpu", "xcode"]}, 1),
        ({"engine": "claude"}, 1),
        ({"productId": "bank"}, 1),
    ],
)
def test_what_a_job_needs(job: dict[str, Any], count: int) -> None:
    told, id_ = fleet(**job)
    told.granted(id_, "f1")
    assert len(found(NAME, told)) == count


def test_what_the_process_itself_cannot_do() -> None:
    told = Told()
    told.enrolled("f1", "gpu")
    told.up("f1")
    told.granted(told.submit(capabilities=["gpu"]), "f1")
    assert len(found(NAME, told)) == 1


def test_what_the_claim_left_out() -> None:
    told, job = fleet(capabilities=["gpu"])
    ask = told.claim_asked("f1", capabilities=[])
    told.claimed(job, "f1")
    told.answered(ask, "factory:f1", grants=[told.grant(job)])
    assert len(found(NAME, told)) == 1


@pytest.mark.parametrize(("asked_at", "count"), [(11.0, 0), (60.0, 1)])
def test_a_capability_that_was_withdrawn(asked_at: float, count: int) -> None:
    told, job = fleet(capabilities=["gpu"])
    told.at(10).enrolled("f1")
    told.at(asked_at).granted(job, "f1")
    assert len(found(NAME, told)) == count


def test_the_repeat_of_a_grant_from_before_the_withdrawal() -> None:
    told, job = fleet(capabilities=["gpu"])
    told.at(1).granted(job, "f1")
    told.at(10).enrolled("f1")
    ask = told.at(60).claim_asked("f1")
    told.answered(ask, "factory:f1", grants=[told.grant(job)])
    assert found(NAME, told) == []


@pytest.mark.parametrize(("machine", "count"), [("f1", 0), ("f2", 1)])
def test_work_that_lies_on_one_machine(machine: str, count: int) -> None:
    told, job = fleet(checkpoint={"ref": "r", "commit": COMMIT, "local": machine})
    told.granted(job, "f1")
    assert len(found(NAME, told)) == count


def test_a_factory_of_which_nothing_was_recorded() -> None:
    told = Told()
    told.granted(told.submit(capabilities=["gpu"]), "f9")
    assert found(NAME, told) == []
