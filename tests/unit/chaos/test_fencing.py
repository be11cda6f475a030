from __future__ import annotations

from schemas.ids import checkpoint_op, end_op, start_op
from tests.unit.chaos.builder import Told, found, whole_life

NAME = "fencing"


def held() -> tuple[Told, str]:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    told.at(2).started(job, "f1")
    return told, job


def test_what_holders_do_within_their_terms() -> None:
    assert found(NAME, whole_life()) == []


def test_a_late_report_that_was_fenced_and_left_nothing() -> None:
    told, job = held()
    told.at(70).reaped(job)
    ask = told.at(71).report_asked(job, "f1", epoch=1)
    told.answered(ask, "factory:f1", report=None, reportError={"code": "fenced"}, next=None)
    assert found(NAME, told) == []


def test_a_report_after_the_lease_ran_out_and_before_the_reaper_came() -> None:
    told, job = held()
    told.at(100).reported(job, "f1")
    assert found(NAME, told) == []


def test_the_repeat_of_a_start_is_fenced_once_its_term_has_ended() -> None:
    told, job = held()
    told.at(70).reaped(job)
    ask = told.asked("start", told.term(job, "f1", epoch=1), "factory:f1")
    told.refused(ask, "factory:f1")
    assert found(NAME, told) == []


def test_a_start_that_came_between_the_leases_closing_and_the_end() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    ask = told.at(33).asked("start", told.term(job, "f1"), "factory:f1")
    told.event(job, "started", start_op(job, 1), "building", "factory:f1", sessionId="s1")
    told.refused(ask, "factory:f1")
    told.history.documents["fleet_leases"][0]["status"] = "closed"
    assert found(NAME, told) == []


def test_a_start_that_was_fenced_and_counted_in_a_term_that_lives_on() -> None:
    told, job = held()
    ask = told.asked("start", told.term(job, "f1"), "factory:f1")
    told.refused(ask, "factory:f1")
    assert len(found(NAME, told)) == 1


def test_a_report_that_was_fenced_and_counted() -> None:
    told, job = held()
    ask = told.at(60).report_asked(job, "f1")
    told.report_stored(job, "f1")
    told.answered(ask, "factory:f1", report=None, reportError={"code": "fenced"}, next=None)
    assert len(found(NAME, told)) == 1


def test_a_report_that_was_accepted_and_whose_repeat_was_fenced() -> None:
    told, job = held()
    told.at(60).reported(job, "f1")
    ask = told.report_asked(job, "f1")
    told.answered(ask, "factory:f1", report=None, reportError={"code": "fenced"}, next=None)
    assert len(found(NAME, told)) == 1


def test_a_holder_that_was_fenced_while_it_held() -> None:
    told, job = held()
    ask = told.at(10).report_asked(job, "f1")
    told.answered(ask, "factory:f1", report=None, reportError={"code": "fenced"}, next=None)
    assert len(found(NAME, told)) == 1


def test_a_report_that_counted_after_the_reaper_came() -> None:
    told, job = held()
    told.at(70).reaped(job)
    told.doc(job)["leaseEpoch"] = 1
    told.report_stored(job, "f1")
    assert len(found(NAME, told)) == 1


def test_a_checkpoint_of_an_old_term_that_counted_in_a_new_one() -> None:
    told, job = held()
    told.at(70).reaped(job)
    told.granted(job, "f2", "s2", "r2")
    event = told.event(job, "checkpointed", checkpoint_op(job, 1, 1), "assigned", "factory:f1", sessionId="s1")
    event["leaseEpoch"] = 1
    assert len(found(NAME, told)) == 1


def test_a_report_of_another_session_that_counted() -> None:
    told, job = held()
    told.event(job, "reported", end_op(job, 1), "shipped", "factory:f1", sessionId="s2", outcome="ok")
    assert len(found(NAME, told)) == 1


def test_the_end_of_an_earlier_term_that_ended_this_one() -> None:
    told, job = held()
    told.at(5).reported(job, "f1")
    told.history.documents["fleet_events"][-1]["opId"] = end_op(job, 7)
    assert len(found(NAME, told)) == 1
