from __future__ import annotations

import pytest

from tests.unit.chaos.builder import Told, found, whole_life

NAME = "bus_holds_no_truth"


def test_engines_of_granted_terms() -> None:
    assert found(NAME, whole_life()) == []


def test_an_engine_that_an_offer_began() -> None:
    told = Told()
    told.engine("begins", "f1", told.submit())
    assert len(found(NAME, told)) == 1


def test_an_engine_that_began_before_the_answer() -> None:
    told = Told()
    job = told.submit()
    ask = told.claim_asked("f1")
    told.claimed(job, "f1")
    told.engine("begins", "f1", job)
    told.answered(ask, "factory:f1", grants=[told.grant(job)])
    assert len(found(NAME, told)) == 1


def test_an_engine_of_a_grant_to_another_session() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1", "s1")
    told.engine("begins", "f1", job, session="s2")
    assert len(found(NAME, told)) == 1


@pytest.mark.parametrize(("seats", "count"), [(1, 1), (2, 0)])
def test_a_request_under_which_two_terms_begin(seats: int, count: int) -> None:
    told = Told()
    one, two = told.submit("k1"), told.submit("k2")
    ask = told.claim_asked("f1", max=seats)
    told.claimed(one, "f1")
    told.claimed(two, "f1")
    told.answered(ask, "factory:f1", grants=[told.grant(one), told.grant(two)])
    told.engine("begins", "f1", one)
    told.engine("ends", "f1", one)
    told.engine("begins", "f1", one)
    told.engine("begins", "f1", two)
    assert len(found(NAME, told)) == count


def outage(*, answered: bool, beside: str | None = None) -> Told:
    told = Told()
    told.up("f1")
    told.asked("hello", {"factoryId": "f1", "sessionId": "s1"}, "factory:f1")
    told.at(10).fault("begins", "bus-outage", "bus")
    if beside is not None:
        told.fault("begins", "cut-off", beside)
    for at_s in (12, 17, 22, 27):
        ask = told.at(at_s).asked("heartbeat", {"factoryId": "f1", "sessionId": "s1"}, "factory:f1")
        if answered:
            told.answered(ask, "factory:f1", terms=[])
        else:
            told.unanswered(ask, "factory:f1")
    told.at(40).fault("ends", "bus-outage", "bus")
    return told


def test_an_outage_that_rest_bridges() -> None:
    assert found(NAME, outage(answered=True)) == []


def test_an_outage_in_which_rest_is_dead_too() -> None:
    assert len(found(NAME, outage(answered=False))) == 1


@pytest.mark.parametrize("beside", ["coordinator:c1", "rest", "factory:f1"])
def test_an_outage_with_other_trouble_beside_it(beside: str) -> None:
    assert found(NAME, outage(answered=False, beside=beside)) == []
