from __future__ import annotations

from tests.unit.chaos.builder import Told, found

NAME = "locks"


def two_jobs(*, seen: bool = True, second: str = "deploy") -> tuple[Told, str, str]:
    told = Told(seen=seen)
    return told, told.submit("k1", lock="deploy"), told.submit("k2", lock=second)


def test_one_after_the_other() -> None:
    told, one, two = two_jobs()
    told.at(1).granted(one, "f1")
    told.at(5).reported(one, "f1")
    told.at(5).granted(two, "f2")
    assert found(NAME, told) == []


def test_two_locks_at_once() -> None:
    told, one, two = two_jobs(second="schema")
    told.at(1).granted(one, "f1")
    told.granted(two, "f2")
    told.at(5).reported(one, "f1")
    told.reported(two, "f2")
    assert found(NAME, told) == []


def test_the_same_lock_of_another_product() -> None:
    told = Told()
    one, two = told.submit("k1", lock="deploy"), told.job("k2", lock="deploy", productId="bank")
    told.granted(one, "f1")
    told.granted(two, "f2")
    assert found(NAME, told) == []


def test_a_late_grant_of_a_term_that_was_reaped_proves_no_hold() -> None:
    told, one, two = two_jobs(seen=False)
    ask = told.at(1).claim_asked("f1")
    told.claimed(one, "f1")
    grant = told.grant(one)
    told.at(35).reaped(one, "not_started", "released")
    told.at(36).granted(two, "f2")
    told.at(37).answered(ask, "factory:f1", grants=[grant])
    late = told.at(38).report_asked(one, "f1", epoch=1)
    told.answered(late, "factory:f1", report=None, reportError={"code": "fenced"}, next=None)
    told.at(50).reported(two, "f2")
    assert found(NAME, told) == []


def test_a_claim_that_was_seen_while_another_held_the_lock() -> None:
    told, one, two = two_jobs()
    told.at(1).granted(one, "f1")
    told.at(2).granted(two, "f2")
    assert len(found(NAME, told)) == 1


def test_a_lock_that_is_given_again_between_a_reap_and_a_third_job() -> None:
    told, one, two = two_jobs()
    told.at(1).granted(one, "f1")
    told.at(70).reaped(one)
    told.at(71).granted(one, "f2", request="r2")
    told.at(72).granted(two, "f3")
    assert len(found(NAME, told)) == 1


def test_holders_that_overlap_by_their_own_answers() -> None:
    told, one, two = two_jobs(seen=False)
    told.at(1).granted(one, "f1")
    told.at(2).granted(two, "f2")
    told.at(3).started(two, "f2")
    told.at(9).reported(one, "f1")
    assert len(found(NAME, told)) == 1


def test_a_repeated_report_proves_only_its_first_ask() -> None:
    told, one, two = two_jobs(seen=False)
    told.at(1).granted(one, "f1")
    first = told.at(5).report_asked(one, "f1")
    told.report_stored(one, "f1")
    told.unanswered(first, "factory:f1")
    told.at(6).granted(two, "f2")
    told.at(7).started(two, "f2")
    again = told.at(8).report_asked(one, "f1")
    told.answered(again, "factory:f1", report={"stage": "shipped", "repeated": True}, next=None)
    assert found(NAME, told) == []
