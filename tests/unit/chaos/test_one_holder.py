from __future__ import annotations

from tests.unit.chaos.builder import Told, found, whole_life

NAME = "one_holder"


def test_a_term_has_one_holder_and_the_next_one_another() -> None:
    assert found(NAME, whole_life()) == []


def test_a_repeated_grant_is_the_same_holders() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    again = told.at(3).claim_asked("f1")
    told.answered(again, "factory:f1", grants=[told.grant(job)])
    assert found(NAME, told) == []


def test_one_term_granted_to_two() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    ask = told.claim_asked("f2", "s2", "r9")
    told.answered(ask, "factory:f2", grants=[told.grant(job, "r9")])
    assert len(found(NAME, told)) == 1


def test_one_term_granted_to_two_sessions_of_one_factory_by_way_of_a_report() -> None:
    told = Told()
    job, done = told.submit(), told.submit("k2")
    told.granted(done, "f1", "s2", "r2")
    told.granted(job, "f1")
    ask = told.report_asked(done, "f1", session="s2", next={"requestId": "r3"})
    told.answered(ask, "factory:f1", report=None, next={"grants": [told.grant(job, "r3")]})
    assert len(found(NAME, told)) == 1


def test_a_report_accepted_from_another_than_who_was_granted() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    ask = told.report_asked(job, "f2", session="s2")
    told.answered(ask, "factory:f2", report={"stage": "shipped", "repeated": False}, next=None)
    assert len(found(NAME, told)) == 1


def test_a_report_that_was_refused_makes_nobody_a_holder() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    ask = told.report_asked(job, "f2", session="s2")
    told.answered(ask, "factory:f2", report=None, reportError={"code": "fenced"}, next=None)
    assert found(NAME, told) == []


def test_a_heartbeat_that_says_granted_to_another() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    ask = told.asked("heartbeat", {"factoryId": "f2", "sessionId": "s2"}, "factory:f2")
    told.answered(ask, "factory:f2", terms=[{"jobId": job, "leaseEpoch": 1, "granted": True}])
    assert len(found(NAME, told)) == 1


def test_told_to_another_than_the_claimed_event_says() -> None:
    told = Told()
    job = told.submit()
    told.claimed(job, "f1")
    ask = told.claim_asked("f2", "s2", "r9")
    told.answered(ask, "factory:f2", grants=[told.grant(job, "r9")])
    assert len(found(NAME, told)) == 1


def test_a_term_that_begins_while_another_is_open() -> None:
    told = Told()
    job = told.submit()
    told.claimed(job, "f1")
    told.doc(job)["leaseEpoch"] = 2
    told.claimed(job, "f2", "s2", "r2")
    assert len(found(NAME, told)) == 1
