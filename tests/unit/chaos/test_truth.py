from __future__ import annotations

from typing import Any

import pytest

from schemas.ids import checkpoint_op, submit_op
from tests.unit.chaos.builder import COMMIT, OTHER, PRODUCT, Told, found, whole_life

NAME = "truth"

SUBMIT = {"productId": PRODUCT, "idempotencyKey": "k1", "manifestSha256": "sha of k1"}


def held() -> tuple[Told, str]:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    return told, job


def test_what_was_answered_is_so() -> None:
    assert found(NAME, whole_life()) == []


def test_a_submit_that_was_done_and_is_not_there() -> None:
    told = Told()
    ask = told.asked("submit", SUBMIT, "operator:ann")
    told.answered(ask, "operator:ann", jobId="x", stage="queued", opId=submit_op("k1"), repeated=False)
    assert len(found(NAME, told)) == 1


@pytest.mark.parametrize(("sha", "count"), [("sha of k1", 1), ("another", 0)])
def test_a_submit_that_was_refused_and_is_there(sha: str, count: int) -> None:
    told = Told()
    told.refused(told.asked("submit", SUBMIT, "operator:ann"), "operator:ann", "conflict")
    told.job("k1", manifestSha256=sha)
    assert len(found(NAME, told)) == count


def test_a_submit_that_was_refused_once_and_done_later() -> None:
    told = Told()
    told.refused(told.asked("submit", SUBMIT, "operator:ann"), "operator:ann", "invalid_manifest")
    told.submit()
    assert found(NAME, told) == []


def test_a_submit_of_which_nobody_knows() -> None:
    for stored in (False, True):
        told = Told()
        told.unanswered(told.asked("submit", SUBMIT, "operator:ann"), "operator:ann")
        if stored:
            told.job()
        assert found(NAME, told) == []


@pytest.mark.parametrize("kind", ["started", "reported"])
def test_a_holders_ask_that_was_done_and_left_nothing(kind: str) -> None:
    told, job = held()
    ask = told.asked("start" if kind == "started" else "report", _message(told, job), "factory:f1")
    told.answered(ask, "factory:f1", report={"stage": "shipped", "repeated": False}, stage="building", next=None)
    assert len(found(NAME, told)) == 1


def _message(told: Told, job: str) -> dict[str, Any]:
    return {**told.term(job, "f1"), "result": {"outcome": "ok"}}


def test_a_checkpoint_that_was_done_with_another_commit() -> None:
    told, job = held()
    told.checkpointed(job, "f1")
    told.history.documents["fleet_events"][-1]["data"]["commit"] = OTHER
    assert len(found(NAME, told)) == 1


@pytest.mark.parametrize(("code", "count"), [("conflict", 1), ("fenced", 0)])
def test_a_checkpoint_that_was_refused_and_counted(code: str, count: int) -> None:
    told, job = held()
    ref = f"refs/gigafactory/{job}/1"
    ask = told.asked("checkpoint", {**told.term(job, "f1"), "number": 1, "ref": ref, "commit": COMMIT}, "factory:f1")
    told.event(
        job, "checkpointed", checkpoint_op(job, 1, 1), "assigned", "factory:f1", sessionId="s1", ref=ref, commit=COMMIT
    )
    told.refused(ask, "factory:f1", code)
    assert len(found(NAME, told)) == count


def test_a_report_that_was_done_with_another_outcome() -> None:
    told, job = held()
    ask = told.report_asked(job, "f1", "engine_failed")
    told.report_stored(job, "f1", "ok")
    told.answered(ask, "factory:f1", report={"stage": "shipped", "repeated": False}, next=None)
    assert len(found(NAME, told)) == 1


def test_a_failure_that_a_cancel_made_a_cancelled_one() -> None:
    told, job = held()
    ask = told.report_asked(job, "f1", "engine_failed")
    told.report_stored(job, "f1", "engine_failed")
    told.history.documents["fleet_events"][-1]["data"]["outcome"] = "cancelled"
    told.answered(ask, "factory:f1", report={"stage": "failed", "repeated": False}, next=None)
    assert found(NAME, told) == []


def test_a_report_and_a_release_of_one_term_of_which_the_first_won() -> None:
    told, job = held()
    told.reported(job, "f1")
    ask = told.asked("release", told.term(job, "f1"), "factory:f1")
    told.answered(ask, "factory:f1", stage="shipped", repeated=True)
    assert found(NAME, told) == []


def test_an_answer_that_came_before_the_commit() -> None:
    told, job = held()
    ask = told.report_asked(job, "f1")
    told.answered(ask, "factory:f1", report={"stage": "shipped", "repeated": False}, next=None)
    told.at(5).report_stored(job, "f1")
    assert len(found(NAME, told)) == 1


def test_a_grant_that_came_before_the_commit() -> None:
    told = Told()
    job = told.submit()
    ask = told.claim_asked("f1")
    told.answered(ask, "factory:f1", grants=[told.grant(job)])
    told.at(5).claimed(job, "f1")
    assert len(found(NAME, told)) == 1


def test_a_grant_that_was_told_under_another_request() -> None:
    told, job = held()
    ask = told.claim_asked("f1", request="r2")
    told.answered(ask, "factory:f1", grants=[told.grant(job)])
    assert len(found(NAME, told)) == 1


def test_an_action_that_was_refused_and_counted() -> None:
    told = Told()
    job = told.submit()
    told.acted(job, "cancel", "failed")
    told.history.records[-1] = told.history.records[-1]._replace(
        kind="refused", data={"ask": 2, "error": {"code": "illegal_transition"}}
    )
    assert len(found(NAME, told)) == 1


def test_an_action_of_which_nobody_knows_and_that_counted_twice() -> None:
    told = Told()
    job = told.submit()
    for _ in range(2):
        told.acted(job, "cancel", "failed")
        told.history.records[-1] = told.history.records[-1]._replace(kind="unanswered")
    assert len(found(NAME, told)) == 1


@pytest.mark.parametrize(("stored", "count"), [(1, 1), (2, 0), (3, 0)])
def test_a_session_that_was_opened(stored: int, count: int) -> None:
    told = Told()
    told.history.documents["fleet_factories"].append({"id": "f1", "sessionNo": stored})
    ask = told.asked("hello", {"factoryId": "f1", "sessionId": "s1", "sessionNo": 2}, "factory:f1")
    told.answered(ask, "factory:f1", opened=True, sessionNo=2)
    assert len(found(NAME, told)) == count


@pytest.mark.parametrize(("said", "count"), [("queued", 0), ("assigned", 0), ("building", 1)])
def test_a_refusal_names_a_stage_that_the_job_had_between_ask_and_answer(said: str, count: int) -> None:
    told = Told()
    job = told.submit()
    claim = {"factoryId": "f2", "sessionId": "s2", "requestId": "r9", "productId": PRODUCT, "jobId": job}
    ask = told.asked("claim", claim, "factory:f2")
    told.granted(job, "f1")
    told.at(5.0).refused(ask, "factory:f2", "conflict", stage=said, action="claim")
    assert len(found(NAME, told)) == count


def test_a_refusal_by_a_stage_that_was_over_before_the_ask() -> None:
    told, job = held()
    claim = {"factoryId": "f2", "sessionId": "s2", "requestId": "r9", "productId": PRODUCT, "jobId": job}
    ask = told.at(5.0).asked("claim", claim, "factory:f2")
    told.refused(ask, "factory:f2", "conflict", stage="queued", action="claim")
    assert len(found(NAME, told)) == 1


@pytest.mark.parametrize(("along", "count"), [({"requestId": "r2"}, 1), (None, 0)])
def test_a_fenced_report_takes_no_ask_for_work_along(along: Any, count: int) -> None:
    told, job = held()
    message = {**_message(told, job), "leaseEpoch": 7, "next": along}
    told.refused(told.asked("report", message, "factory:f1"), "factory:f1", "fenced")
    assert len(found(NAME, told)) == count
