from __future__ import annotations

import pytest

from schemas.ids import end_op
from tests.unit.chaos.builder import COMMIT, OTHER, Told, found, whole_life

NAME = "recovery"


def held() -> tuple[Told, str]:
    told = Told()
    told.up("f1")
    told.up("f2", "s2")
    job = told.submit()
    told.at(1).granted(job, "f1")
    told.started(job, "f1")
    return told, job


def test_a_term_that_is_reaped_in_time() -> None:
    assert found(NAME, whole_life()) == []


@pytest.mark.parametrize(("how", "kind"), [("killed", "down"), ("fenced", "down"), (None, "paused")])
@pytest.mark.parametrize(("reaped_at", "count"), [(82.0, 0), (130.0, 1)])
def test_a_holder_that_is_gone(how: str | None, kind: str, reaped_at: float, count: int) -> None:
    told, job = held()
    told.at(10).note(kind, "factory:f1", life=1, how=how)
    told.at(reaped_at).reaped(job)
    assert len(found(NAME, told)) == count


def test_a_term_that_nobody_ever_ends() -> None:
    told, _ = held()
    told.at(10).note("down", "factory:f1", life=1, how="killed")
    told.at(300).converged()
    assert len(found(NAME, told)) == 1


def test_a_holder_that_went_on_may_keep_its_term() -> None:
    told, job = held()
    told.at(10).note("paused", "factory:f1", life=1)
    told.at(40).note("resumed", "factory:f1", life=1)
    told.at(300).reported(job, "f1")
    assert found(NAME, told) == []


def test_a_term_that_was_renewed_by_what_was_under_way_through_trouble() -> None:
    for answered, count in ((True, 1), (False, 0)):
        told, job = held()
        told.at(5).fault("begins", "store-weather", "coordinator:c1")
        ask = told.at(9).asked("renew", told.term(job, "f1"), "factory:f1")
        if answered:
            told.answered(ask, "factory:f1", stage="building", stop=None, term={})
        told.at(10).note("down", "factory:f1", life=1, how="killed")
        told.at(40).fault("ends", "store-weather", "coordinator:c1")
        told.at(110).reaped(job)
        assert len(found(NAME, told)) == count


def test_a_reaper_that_cannot_work_is_waited_for() -> None:
    told, job = held()
    told.at(10).note("down", "factory:f1", life=1, how="killed")
    told.at(60).fault("begins", "store-outage", "coordinator:c1")
    told.at(200).fault("ends", "store-outage", "coordinator:c1")
    told.at(208).reaped(job)
    assert found(NAME, told) == []


def test_no_reaper_at_all_is_waited_for() -> None:
    told, job = held()
    told.at(10).note("down", "factory:f1", life=1, how="killed")
    told.at(60).note("down", "coordinator:c1", life=1, how="killed")
    told.at(300).note("up", "coordinator:c1", life=2)
    told.at(305).reaped(job)
    assert found(NAME, told) == []


def test_trouble_of_the_network_keeps_no_reaper_from_its_work() -> None:
    told, job = held()
    told.at(10).note("down", "factory:f1", life=1, how="killed")
    told.at(60).fault("begins", "bus-outage", "bus")
    told.at(130).reaped(job)
    assert len(found(NAME, told)) == 1


def test_a_grant_that_was_won_after_death_has_a_lease_of_its_own() -> None:
    told = Told()
    told.up("f1")
    job = told.submit()
    told.asked("hello", {"factoryId": "f1", "sessionId": "s1"}, "factory:f1")
    told.at(10).note("down", "factory:f1", life=1, how="killed")
    told.at(60).claimed(job, "f1")
    told.at(93).reaped(job, "not_started", "released")
    assert found(NAME, told) == []


def saved(commit: str = COMMIT) -> tuple[Told, str]:
    told, job = held()
    told.at(5).checkpointed(job, "f1", commit=commit)
    return told, job


def granted_with(told: Told, job: str, commit: str | None, epoch: int = 2) -> None:
    ask = told.claim_asked("f2", "s2", "r2")
    told.claimed(job, "f2", "s2", "r2")
    checkpoint = commit and {"ref": f"refs/gigafactory/{job}/1", "commit": commit}
    told.answered(ask, "factory:f2", grants=[told.grant(job, "r2", epoch, checkpoint=checkpoint)])


@pytest.mark.parametrize(("commit", "count"), [(COMMIT, 0), (OTHER, 1), (None, 1)])
def test_the_next_grant_tells_the_last_checkpoint(commit: str | None, count: int) -> None:
    told, job = saved()
    told.at(70).reaped(job)
    granted_with(told, job, commit)
    assert len(found(NAME, told)) == count


def test_a_grant_that_is_repeated_may_tell_its_own_checkpoint() -> None:
    told, job = saved()
    ask = told.claim_asked("f1")
    told.answered(ask, "factory:f1", grants=[told.grant(job)])
    assert found(NAME, told) == []


@pytest.mark.parametrize(("commit", "count"), [(OTHER, 0), (COMMIT, 1)])
def test_a_release_may_carry_the_last_checkpoint(commit: str, count: int) -> None:
    told, job = saved()
    last = {"ref": f"refs/gigafactory/{job}/1", "commit": OTHER, "number": 2}
    ask = told.asked("release", {**told.term(job, "f1"), "checkpoint": last}, "factory:f1")
    told.event(job, "released", end_op(job, 1), "queued", "factory:f1", sessionId="s1", outcome="released")
    told.ended(job, "queued", outcome="released")
    told.doc(job)["checkpoint"] = last
    told.answered(ask, "factory:f1", stage="queued", repeated=False)
    granted_with(told, job, commit)
    assert len(found(NAME, told)) == count


def test_a_job_that_forgot_its_checkpoint() -> None:
    told, job = saved()
    told.doc(job)["checkpoint"] = None
    assert len(found(NAME, told)) == 1


def test_a_term_that_a_late_repeat_of_its_holders_words_renewed() -> None:
    told, job = held()
    told.at(10).note("down", "factory:f1", life=1, how="killed")
    ask = told.at(50).asked("renew", told.term(job, "f1"), "stray")
    told.answered(ask, "stray", stage="building", stop=None, term={})
    told.at(120).reaped(job)
    assert found(NAME, told) == []
    told.at(170).note("calm", "world")
    assert found(NAME, told) == []
