from __future__ import annotations

from tests.unit.chaos.builder import Told, found, whole_life

NAME = "rising_terms"


def test_terms_rise() -> None:
    assert found(NAME, whole_life()) == []


def test_an_epoch_that_nobody_used_may_be_left_out() -> None:
    told = Told()
    job = told.submit()
    told.doc(job)["leaseEpoch"] = 4
    told.granted(job, "f1")
    assert found(NAME, told) == []


def test_a_term_that_is_claimed_twice() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    told.reaped(job)
    told.doc(job)["leaseEpoch"] = 1
    told.granted(job, "f2", "s2", "r2")
    assert len(found(NAME, told)) == 1


def test_a_term_that_falls() -> None:
    told = Told()
    job = told.submit()
    told.doc(job)["leaseEpoch"] = 5
    told.granted(job, "f1")
    told.reaped(job)
    told.doc(job)["leaseEpoch"] = 3
    told.granted(job, "f1", request="r2")
    assert len(found(NAME, told)) == 1


def test_a_grant_that_no_event_backs() -> None:
    told = Told()
    job = told.submit()
    ask = told.claim_asked("f1")
    told.answered(ask, "factory:f1", grants=[told.grant(job)])
    assert len(found(NAME, told)) == 1


def test_one_term_under_two_requests_of_one_session() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    ask = told.claim_asked("f1", request="r2")
    told.answered(ask, "factory:f1", grants=[told.grant(job)])
    assert len(found(NAME, told)) == 1


def test_a_job_that_is_queued_at_an_epoch_that_was_granted() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    told.reaped(job)
    told.doc(job)["leaseEpoch"] = 1
    assert len(found(NAME, told)) == 1


def test_a_job_that_forgot_what_was_granted_last() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    told.doc(job)["grantedEpoch"] = 0
    assert len(found(NAME, told)) == 1
