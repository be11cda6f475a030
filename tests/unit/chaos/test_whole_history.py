from __future__ import annotations

from typing import Any

import pytest

from tests.unit.chaos.builder import Told, found, whole_life

NAME = "whole_history"


def test_a_whole_history() -> None:
    assert found(NAME, whole_life()) == []


def test_an_event_that_is_only_in_the_outbox_is_no_gap() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    event = told.history.documents["fleet_events"].pop()
    told.doc(job).update(outbox=[event], pendingEvents=1)
    told.history.documents["fleet_runs"].clear()
    told.history.documents["fleet_leases"].clear()
    assert found(NAME, told) == []


def test_an_event_that_is_in_both_is_one() -> None:
    told = Told()
    job = told.submit()
    told.doc(job).update(outbox=list(told.history.documents["fleet_events"]), pendingEvents=1)
    assert found(NAME, told) == []


def test_a_lease_that_is_open_after_its_holders_own_report_is_inert() -> None:
    told = Told()
    job = told.submit()
    told.granted(job, "f1")
    told.reported(job, "f1")
    assert found(NAME, told) == []


CONTAINERS = ("fleet_jobs", "fleet_events", "fleet_runs", "fleet_leases")


@pytest.mark.parametrize(
    ("container", "place", "change"),
    [
        ("fleet_events", 2, None),
        ("fleet_events", -1, None),
        ("fleet_events", 2, {"seq": 99}),
        ("fleet_events", 2, {"from": "queued"}),
        ("fleet_events", 2, {"id": "another"}),
        ("fleet_jobs", 0, {"stage": "failed"}),
        ("fleet_jobs", 0, {"pendingEvents": 1}),
        ("fleet_jobs", 0, {"retries": {"max": 2, "used": 1}}),
        ("fleet_jobs", 0, {"holder": {"factoryId": "f1"}}),
        ("fleet_runs", 0, None),
        ("fleet_runs", 1, {"endedAt": None}),
        ("fleet_runs", 1, {"outcome": "lost"}),
        ("fleet_runs", 1, {"factoryId": "f1"}),
        ("fleet_runs", 1, {"leaseEpoch": 7, "id": "x:7"}),
        ("fleet_leases", 0, {"status": "active"}),
        ("fleet_leases", 1, {"sessionId": "s9"}),
        ("fleet_leases", 1, {"leaseEpoch": 7}),
    ],
)
def test_a_document_that_is_missing_or_says_something_else(
    container: str, place: int, change: dict[str, Any] | None
) -> None:
    told = whole_life()
    documents = told.history.documents[container]
    if change is None:
        documents.pop(place)
    else:
        documents[place].update(change)
    assert found(NAME, told)


@pytest.mark.parametrize("container", CONTAINERS[1:])
def test_a_document_that_is_there_twice(container: str) -> None:
    told = whole_life()
    told.history.documents[container].append(dict(told.history.documents[container][0]))
    assert found(NAME, told)


def test_an_event_that_is_told_in_two_ways() -> None:
    told = Told()
    job = told.submit()
    other = told.history.documents["fleet_events"][0] | {"opId": "another"}
    told.doc(job).update(outbox=[other], pendingEvents=1)
    assert len(found(NAME, told)) == 1


def test_events_of_a_job_that_is_not_there() -> None:
    told = whole_life()
    told.history.documents["fleet_jobs"].clear()
    assert len(found(NAME, told)) == 1
