from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.unit.chaos.builder import Told, found, whole_life

NAME = "one_engine"


def lost(
    cause: str, *, old_life_down: bool = False, over: float = 30.0, faults: Sequence[tuple[str, str]] = ()
) -> Told:
    """An engine of f1 that is still at it when that of the next term begins at 22, and ends at `over`."""
    told = Told()
    told.up("f1")
    told.up("f2", "s2")
    job = told.submit()
    told.at(1).granted(job, "f1")
    told.engine("begins", "f1", job)
    told.started(job, "f1")
    for name, on in faults:
        told.at(10).fault("begins", name, on)
    if old_life_down:
        told.at(15).note("down", "factory:f1", life=1, how="killed")
    told.at(16).up("f1", "s3", life=2)
    if cause in ("session_gone", "expired"):
        told.asked("hello", {"factoryId": "f1", "sessionId": "s3", "sessionNo": 2}, "factory:f1")
    told.at(20).reaped(job, cause)
    told.at(21).granted(job, "f2", "s2", "r2")
    told.at(22).engine("begins", "f2", job, 2, "s2")
    told.at(over).engine("ends", "f1", job)
    told.at(over + 1).engine("ends", "f2", job, 2, "s2")
    return told


def test_one_after_the_other() -> None:
    assert found(NAME, whole_life()) == []


def test_an_engine_that_begins_as_the_other_ends() -> None:
    assert found(NAME, lost("expired", over=22.0)) == []


def test_two_programs_of_one_term_in_turn() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    for at_s in (1, 5):
        told.at(at_s).engine("begins", "f1", job)
        told.at(at_s + 2).engine("ends", "f1", job)
    assert found(NAME, told) == []


@pytest.mark.parametrize("cause", ["session_gone", "expired"])
def test_an_older_session_that_lives_on_another_machine(cause: str) -> None:
    assert found(NAME, lost(cause)) == []


def test_an_older_session_that_runs_longer_than_a_lease() -> None:
    assert len(found(NAME, lost("session_gone", over=90.0))) == 1


def test_an_older_session_whose_process_was_dead() -> None:
    assert len(found(NAME, lost("session_gone", old_life_down=True))) == 1


@pytest.mark.parametrize(
    ("faults", "count"),
    [
        ([("cut-off", "factory:f1")], 0),
        ([("bus-cut", "factory:f1"), ("store-outage", "coordinator:c1")], 0),
        ([("bus-cut", "factory:f1")], 1),
        ([("pause", "factory:f1")], 1),
        ([("cut-off", "factory:f2")], 1),
        ([], 1),
    ],
    ids=lambda faults: "+".join(name for name, _ in faults) if isinstance(faults, list) else "",
)
def test_a_factory_that_vanished_may_live_on_only_where_it_could_reach_nobody(
    faults: list[tuple[str, str]], count: int
) -> None:
    assert len(found(NAME, lost("vanished", faults=faults))) == count


@pytest.mark.parametrize("cause", ["missing", "not_started", "stop_deadline"])
def test_an_end_that_its_holder_could_know_of(cause: str) -> None:
    assert len(found(NAME, lost(cause))) == 1


def test_a_holder_whose_own_report_ended_the_term() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    told.engine("begins", "f1", job)
    told.at(5).reported(job, "f1", "released")
    told.granted(job, "f2", "s2", "r2")
    told.engine("begins", "f2", job, 2, "s2")
    told.at(9).engine("ends", "f1", job)
    assert len(found(NAME, told)) == 1


def test_an_expired_term_with_nothing_that_explains_it() -> None:
    told = lost("expired")
    told.history.records[:] = [one for one in told.history.records if one.data.get("op") != "hello"]
    assert len(found(NAME, told)) == 1


def test_an_engine_that_never_ends() -> None:
    told = lost("expired")
    told.history.records[:] = [one for one in told.history.records if one.data.get("does") != "ends"]
    assert len(found(NAME, told)) == 1


def test_two_engines_of_one_term() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    told.engine("begins", "f1", job)
    told.at(2).engine("begins", "f1", job)
    assert len(found(NAME, told)) == 1


@pytest.mark.parametrize(("heard", "count"), [(False, 0), (True, 1)])
def test_a_stop_whose_holder_was_cut_off(heard: bool, count: int) -> None:
    told = Told()
    told.up("f1")
    job = told.submit()
    told.at(1).granted(job, "f1")
    told.engine("begins", "f1", job)
    told.started(job, "f1")
    told.at(10).acted(job, "preempt", "building")
    if heard:
        ask = told.at(11).asked("renew", told.term(job, "f1"), "factory:f1")
        told.answered(ask, "factory:f1", stage="building", stop={"kind": "preempt", "byS": 29.0}, term={})
    told.at(44).reaped(job, "stop_deadline", "preempted")
    told.at(45).granted(job, "f2", "s2", "r2")
    told.engine("begins", "f2", job, 2, "s2")
    told.at(60).engine("ends", "f1", job)
    assert len(found(NAME, told)) == count
