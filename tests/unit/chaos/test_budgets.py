from __future__ import annotations

from typing import Any

import pytest

from tests.unit.chaos.builder import PRODUCT, Told, found

NAME = "budgets"


def paused(told: Told, wanted: bool = True, answered: bool = True) -> None:
    ask = told.asked("pause", {"productId": PRODUCT, "paused": wanted}, "operator:ann")
    if answered:
        told.at(told.now + 0.1).answered(ask, "operator:ann")
    else:
        told.unanswered(ask, "operator:ann")


def ledger(told: Told, **said: Any) -> None:
    told.history.documents["fleet_jobs"].append(
        {"id": "ledger", "productId": PRODUCT, "paused": False, "spent": 0.0, "reserved": 0.0, "type": "ledger", **said}
    )


def test_a_product_that_was_paused_and_resumed() -> None:
    told = Told(budgets=True)
    one, two = told.submit("k1"), told.submit("k2")
    told.at(1).granted(one, "f1")
    paused(told.at(2))
    told.at(5).reported(one, "f1", usd=2.5)
    paused(told.at(9), False)
    told.at(10).granted(two, "f1", request="r2")
    told.doc(two)["reserved"] = 3.0
    ledger(told, spent=2.5, reserved=3.0)
    assert found(NAME, told) == []


@pytest.mark.parametrize("seen", [True, False])
def test_a_claim_that_landed_after_the_pause(seen: bool) -> None:
    told = Told(budgets=True, seen=seen)
    job = told.submit()
    paused(told.at(2))
    told.at(5).granted(job, "f1")
    ledger(told, paused=True)
    assert len(found(NAME, told)) == 1


def test_the_repeat_of_an_older_grant_is_no_new_one() -> None:
    for seen in (True, False):
        told = Told(budgets=True, seen=seen)
        job = told.submit()
        told.at(1).granted(job, "f1")
        paused(told.at(2))
        ask = told.at(5).claim_asked("f1")
        told.answered(ask, "factory:f1", grants=[told.grant(job)])
        ledger(told, paused=True)
        assert found(NAME, told) == []


def test_a_claim_while_the_resume_is_under_way() -> None:
    told = Told(budgets=True)
    job = told.submit()
    paused(told.at(2))
    ask = told.at(5).asked("pause", {"productId": PRODUCT, "paused": False}, "operator:ann")
    told.at(6).granted(job, "f1")
    told.at(7).answered(ask, "operator:ann")
    ledger(told)
    assert found(NAME, told) == []


def test_an_older_resume_of_which_nobody_knows() -> None:
    told = Told(budgets=True)
    job = told.submit()
    paused(told.at(1), False, answered=False)
    paused(told.at(2))
    told.at(5).granted(job, "f1")
    ledger(told)
    assert found(NAME, told) == []


def test_without_budgets_nothing_is_paused() -> None:
    told = Told()
    job = told.submit()
    paused(told.at(2))
    told.at(5).granted(job, "f1")
    assert found(NAME, told) == []


@pytest.mark.parametrize("said", [{"spent": 5.0}, {"spent": 0.0}, {"spent": 2.5, "reserved": 1.0}])
def test_a_ledger_that_counted_otherwise(said: dict[str, float]) -> None:
    told = Told(budgets=True)
    job = told.submit()
    told.granted(job, "f1")
    told.reported(job, "f1", usd=2.5)
    ledger(told, **said)
    assert len(found(NAME, told)) == 1


def test_a_job_that_counted_a_run_twice() -> None:
    told = Told(budgets=True)
    job = told.submit()
    told.granted(job, "f1")
    told.reported(job, "f1", usd=2.5)
    told.doc(job)["spend"]["usd"] = 5.0
    ledger(told, spent=2.5)
    assert len(found(NAME, told)) == 1


def test_a_product_without_a_ledger() -> None:
    told = Told(budgets=True)
    told.granted(told.submit(), "f1")
    assert len(found(NAME, told)) == 1


def test_a_reservation_that_nobody_gives_back() -> None:
    told = Told(budgets=True)
    job = told.submit(reserved=3.0)
    ledger(told, reserved=3.0)
    assert len(found(NAME, told)) == 1
    told.granted(job, "f1")
    told.note("calm", "world")
    assert found(NAME, told) == []


def test_a_pause_that_was_undone() -> None:
    told = Told(budgets=True)
    told.submit()
    paused(told.at(2))
    ledger(told)
    assert len(found(NAME, told)) == 1
