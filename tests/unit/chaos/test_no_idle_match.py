from __future__ import annotations

from typing import Any

import pytest

from tests.unit.chaos.builder import COMMIT, PRODUCT, Told, found, whole_life

NAME = "no_idle_match"


def fleet(*, budgets: bool = False, seats: int = 1) -> Told:
    """One factory that has opened its session; from 30 on all is quiet."""
    told = Told(budgets=budgets)
    told.enrolled("f1", "gpu")
    told.up("f1", "s1", "gpu", seats=seats)
    ask = told.asked("hello", {"factoryId": "f1", "sessionId": "s1", "sessionNo": 1}, "factory:f1")
    told.answered(ask, "factory:f1", opened=True, sessionNo=1)
    return told.at(30)


def waited(told: Told, over: float = 60.0, **job: Any) -> list[str]:
    told.submit("waits", **job)
    told.at(over).converged()
    return found(NAME, told)


def test_matches_that_are_made() -> None:
    assert found(NAME, whole_life()) == []


@pytest.mark.parametrize(("over", "count"), [(35.0, 0), (45.0, 1)])
def test_a_job_that_waits_beside_a_free_factory(over: float, count: int) -> None:
    assert len(waited(fleet(), over)) == count


def test_a_job_that_is_matched_late() -> None:
    told = fleet()
    job = told.submit()
    told.at(50).granted(job, "f1")
    told.at(60).reported(job, "f1")
    assert len(found(NAME, told)) == 1


@pytest.mark.parametrize(
    "job",
    [
        {"capabilities": ["xcode"]},
        {"engine": "claude"},
        {"productId": "bank"},
        {"cwd": "/work"},
        {"stage": "blocked"},
    ],
)
def test_a_job_that_the_factory_cannot_do(job: dict[str, Any]) -> None:
    assert waited(fleet(), **job) == []


@pytest.mark.parametrize(("seats", "count"), [(1, 0), (2, 1)])
def test_a_factory_that_is_busy(seats: int, count: int) -> None:
    told = fleet(seats=seats)
    told.granted(told.submit(), "f1")
    assert len(waited(told)) == count


def test_a_factory_whose_report_is_not_acknowledged_is_busy() -> None:
    told = fleet()
    job = told.submit()
    told.granted(job, "f1")
    ask = told.report_asked(job, "f1")
    told.report_stored(job, "f1")
    told.unanswered(ask, "factory:f1")
    assert waited(told) == []


def test_a_claim_that_nobody_answered_keeps_its_seat_for_a_while() -> None:
    for over, count in ((50.0, 0), (70.0, 1)):
        told = fleet()
        told.unanswered(told.claim_asked("f1"), "factory:f1")
        assert len(waited(told, over)) == count


@pytest.mark.parametrize("lock", ["deploy", "schema"])
def test_a_lock_that_another_holds(lock: str) -> None:
    told = fleet(seats=2)
    told.granted(told.submit(lock="deploy"), "f9")
    assert len(waited(told, lock=lock)) == (lock == "schema")


@pytest.mark.parametrize(("resumed_at", "count"), [(None, 0), (31.0, 1)])
def test_a_product_that_is_paused(resumed_at: float | None, count: int) -> None:
    told = fleet(budgets=True)
    told.answered(told.asked("pause", {"productId": PRODUCT, "paused": True}, "operator:ann"), "operator:ann")
    if resumed_at is not None:
        told.at(resumed_at)
        told.answered(told.asked("pause", {"productId": PRODUCT, "paused": False}, "operator:ann"), "operator:ann")
    assert len(waited(told)) == count


@pytest.mark.parametrize("on", ["bus", "store", "coordinator:c1", "factory:f1", "factory:f2"])
def test_trouble_and_what_it_takes_to_make_up_for_it(on: str) -> None:
    for over, count in ((60.0, 0), (90.0, 1)):
        told = fleet()
        told.fault("begins", "weather", on)
        told.submit()
        told.at(45).fault("ends", "weather", on)
        told.at(over).converged()
        assert len(found(NAME, told)) == count


@pytest.mark.parametrize("kind", ["down", "paused"])
def test_a_factory_that_is_not_there(kind: str) -> None:
    told = fleet()
    told.note(kind, "factory:f1", life=1, how="killed")
    assert waited(told) == []


def test_a_factory_that_drains() -> None:
    told = fleet()
    told.asked("heartbeat", {"factoryId": "f1", "sessionId": "s1", "draining": True}, "factory:f1")
    assert waited(told) == []


def test_a_factory_whose_quota_is_used_up() -> None:
    told = fleet()
    job = told.submit()
    told.granted(job, "f1")
    told.report_asked(job, "f1", "quota_exhausted")
    told.reported(job, "f1", "released")
    assert waited(told) == []


def test_a_factory_that_has_not_opened_its_session() -> None:
    told = Told()
    told.enrolled("f1")
    told.up("f1")
    told.asked("hello", {"factoryId": "f1", "sessionId": "s1", "sessionNo": 1}, "factory:f1")
    told.at(30)
    assert waited(told) == []


def test_work_that_may_lie_on_one_machine() -> None:
    told = fleet()
    job = told.submit()
    checkpoint = {"number": 1, "ref": "r", "commit": COMMIT, "local": True}
    told.asked("checkpoint", {**told.term(job, "f9"), **checkpoint}, "factory:f9")
    told.at(60).converged()
    assert found(NAME, told) == []
