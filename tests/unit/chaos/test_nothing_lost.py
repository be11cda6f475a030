from __future__ import annotations

from tests.unit.chaos.builder import Told, found, whole_life

NAME = "nothing_lost"


def test_an_acknowledged_job_that_is_shipped() -> None:
    assert found(NAME, whole_life()) == []


def test_what_waits_for_a_person_is_not_lost() -> None:
    told = Told()
    told.submit("k1", stage="review")
    told.submit("k2", stage="testing", ship="manual")
    told.submit("k3", stage="blocked", blockedReason={"kind": "budget", "text": "its own budget is used up"})
    told.submit("k4", stage="queued")
    told.converged()
    assert found(NAME, told) == []


def test_a_submit_that_nobody_answered_may_be_lost() -> None:
    told = Told()
    message = {"productId": "shop", "idempotencyKey": "k1", "manifestSha256": ""}
    told.unanswered(told.asked("submit", message, "operator:ann"), "operator:ann")
    told.converged()
    assert found(NAME, told) == []


def test_an_acknowledged_job_that_is_not_there() -> None:
    told = Told()
    told.submit()
    told.history.documents["fleet_jobs"].clear()
    assert len(found(NAME, told)) == 1


def test_a_job_that_is_held_for_ever() -> None:
    told = Told()
    told.granted(told.submit(), "f1")
    told.converged()
    assert len(found(NAME, told)) == 1


def test_a_job_that_is_blocked_without_a_reason() -> None:
    told = Told()
    told.submit("k1", stage="blocked")
    told.converged()
    assert len(found(NAME, told)) == 1


def waiting_for_a_dep(**more: object) -> Told:
    told = Told()
    dep = told.submit("k1")
    told.submit("k2", stage="blocked", deps=[dep], blockedReason={"kind": "deps", "text": "waits"}, **more)
    told.granted(dep, "f1")
    told.reported(dep, "f1")
    told.history.documents["fleet_events"][-1]["type"] = "shipped"
    return told


def test_a_dep_that_was_shipped_a_moment_ago() -> None:
    told = waiting_for_a_dep()
    told.at(5).converged()
    assert found(NAME, told) == []


def test_a_dep_that_was_shipped_long_ago() -> None:
    told = waiting_for_a_dep()
    told.at(100).converged()
    assert len(found(NAME, told)) == 1


def test_two_deps_of_which_one_was_shipped() -> None:
    for mode, count in (("all", 0), ("any", 1)):
        told = waiting_for_a_dep(depsMode=mode)
        next(one for one in told.history.documents["fleet_jobs"] if one["deps"])["deps"].append("another")
        told.at(100).converged()
        assert len(found(NAME, told)) == count


def test_a_job_that_ships_by_itself_and_does_not() -> None:
    told = Told()
    told.submit("k1", stage="testing", ship="auto")
    told.converged()
    assert len(found(NAME, told)) == 1


def test_a_run_whose_time_was_up_names_what_was_left() -> None:
    told = Told()
    job = told.submit()
    told.note("gave_up", "world", why="300 s are over")
    (what,) = found(NAME, told)
    assert job in what
    assert "300 s are over" in what
