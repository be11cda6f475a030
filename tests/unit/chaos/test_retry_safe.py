from __future__ import annotations

from typing import Any

import pytest

from schemas.ids import submit_op
from tests.unit.chaos.builder import Told, found, whole_life

NAME = "retry_safe"


def test_what_was_done_once() -> None:
    assert found(NAME, whole_life()) == []


def test_a_submit_whose_repeat_names_another_job() -> None:
    told = Told()
    told.submit()
    message = {"productId": "shop", "idempotencyKey": "k1", "manifestSha256": "sha of k1"}
    ask = told.asked("submit", message, "operator:ann")
    told.answered(ask, "operator:ann", jobId="another", stage="queued", opId=submit_op("k1"), repeated=True)
    assert len(found(NAME, told)) == 1


def test_one_key_of_two_operators_is_two_actions() -> None:
    told = Told()
    job = told.submit()
    told.acted(job, "cancel", "failed")
    message = {"productId": "shop", "jobId": job, "action": "cancel", "idempotencyKey": "a1"}
    ask = told.asked("act", message, "operator:bob")
    told.answered(ask, "operator:bob", jobId=job, stage="failed", opId="action:cancel:operator:bob:a1", repeated=False)
    assert found(NAME, told) == []


def test_an_action_whose_repeat_tells_of_another() -> None:
    told = Told()
    job = told.submit()
    told.acted(job, "cancel", "failed")
    message = {"productId": "shop", "jobId": job, "action": "cancel", "idempotencyKey": "a1"}
    ask = told.asked("act", message, "operator:ann")
    told.answered(ask, "operator:ann", jobId=job, stage="failed", opId="another", repeated=False)
    assert len(found(NAME, told)) == 1


def test_an_action_that_took_effect_twice() -> None:
    told = Told()
    job = told.submit()
    told.acted(job, "cancel", "failed")
    told.acted(job, "requeue", "queued", "a2")
    told.acted(job, "cancel", "failed")
    assert len(found(NAME, told)) == 1


@pytest.mark.parametrize(("stage", "count"), [("shipped", 0), ("failed", 1)])
def test_a_report_that_is_answered_twice(stage: str, count: int) -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    told.reported(job, "f1")
    ask = told.report_asked(job, "f1")
    told.answered(ask, "factory:f1", report={"stage": stage, "repeated": True}, next=None)
    assert len(found(NAME, told)) == count


def test_a_late_duplicate_of_a_settled_claim_may_win_another_term() -> None:
    told = Told()
    one, two = told.submit("k1"), told.submit("k2")
    told.granted(one, "f1")
    told.at(40).reported(one, "f1")
    told.at(60).granted(two, "f1")
    assert found(NAME, told) == []


def test_two_tries_of_one_claim_at_once_may_win_two_jobs() -> None:
    told = Told()
    one, two = told.submit("k1"), told.submit("k2")
    told.claimed(one, "f1")
    told.at(1).claimed(two, "f1")
    assert found(NAME, told) == []


def test_a_request_that_is_topped_up_long_after() -> None:
    told = Told()
    one, two = told.submit("k1"), told.submit("k2")
    told.at(1).granted(one, "f1")
    told.at(40).claimed(two, "f1")
    assert len(found(NAME, told)) == 1


def test_a_claim_under_way_through_trouble_may_add_a_term() -> None:
    told = Told()
    one, two = told.submit("k1"), told.submit("k2")
    told.at(1).granted(one, "f1")
    told.note("paused", "coordinator:c1", life=1)
    told.at(38).note("resumed", "coordinator:c1", life=1)
    told.at(40).claimed(two, "f1")
    assert found(NAME, told) == []


def claimed_again(**answer: Any) -> Told:
    told = Told()
    job = told.submit()
    told.at(1).granted(job, "f1")
    ask = told.at(5).claim_asked("f1")
    if "code" in answer:
        told.at(6).refused(ask, "factory:f1", answer["code"])
    else:
        told.at(6).answered(ask, "factory:f1", grants=[told.grant(job)] if answer["same"] else [])
    return told


@pytest.mark.parametrize(("answer", "count"), [
    ({"same": True}, 0), ({"same": False}, 1), ({"code": "fenced"}, 0), ({"code": "conflict"}, 1),
])  # fmt: skip
def test_the_repeat_of_a_claim_while_its_term_is_open(answer: dict[str, Any], count: int) -> None:
    assert len(found(NAME, claimed_again(**answer))) == count


def test_the_repeat_of_a_claim_along_with_a_report() -> None:
    told = Told()
    job, done = told.submit("k1"), told.submit("k2")
    told.at(1).granted(job, "f1", request="r3")
    told.at(2).granted(done, "f1", request="r2")
    ask = told.at(5).report_asked(done, "f1", next={"requestId": "r3"})
    told.at(6).report_stored(done, "f1")
    told.answered(ask, "factory:f1", report={"stage": "shipped", "repeated": False}, next={"grants": []})
    assert len(found(NAME, told)) == 1


def test_a_factory_that_no_longer_serves_the_product_is_not_asked_for_its_terms() -> None:
    told = Told()
    told.enrolled("f1")
    job = told.submit()
    told.at(1).granted(job, "f1")
    told.enrolled("f1", products=("bank",))
    ask = told.at(5).claim_asked("f1")
    told.at(6).answered(ask, "factory:f1", grants=[])
    assert found(NAME, told) == []
