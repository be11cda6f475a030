"""What operators read: rows, lines and sentences from the API's answers, nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from console import view
from coordinator.http.examples import common, factories, runs
from schemas.factory import Health
from schemas.job import Stage

JOB = common.JOB
FACTORY: dict[str, Any] = {**factories.FACTORIES_ANSWER["factories"][0], "draining": False}


def test_every_stage_and_health_has_a_badge() -> None:
    assert set(view.BADGES) == {*map(str, Stage), *map(str, Health)}


def test_a_time_is_shown_short_and_none_as_a_dash() -> None:
    assert view.clock_time("2030-01-01T12:34:56.789000Z") == "2030-01-01 12:34:56"
    today = datetime.now(UTC).replace(hour=12, minute=34, second=56)
    assert view.clock_time(today.isoformat()) == "12:34:56"
    assert view.clock_time(None) == "-"


def test_a_jobs_row_has_a_cell_for_each_column() -> None:
    row = view.job_row(JOB)
    assert len(row) == len(view.JOB_COLUMNS)
    assert row == (common.JOB_ID, "queued", "normal", "Add a dark mode.", "-", "0", "2030-01-01 12:00:00")


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"holder": {"factoryId": "builder-1"}, "lastFactoryId": "other"}, "builder-1"),
        ({"holder": None, "lastFactoryId": "builder-2"}, "builder-2"),
        ({}, "-"),
    ],
)
def test_a_jobs_row_names_its_holder_or_its_last_one(fields: dict[str, Any], shown: str) -> None:
    assert view.job_row({**JOB, **fields})[view.JOB_COLUMNS.index("factory")] == shown


def test_a_factorys_row_has_a_cell_for_each_column() -> None:
    row = view.factory_row(FACTORY)
    assert len(row) == len(view.FACTORY_COLUMNS)
    assert row == ("builder-1", "healthy", "bus", "1/2", "claude, shell", "python", "12", common.JOB_ID)


def test_a_draining_factory_without_anything_is_shown_as_such() -> None:
    bare = {**FACTORY, "draining": True, "engines": [], "capabilities": [], "holding": []}
    row = view.factory_row(bare)
    assert row[1] == "healthy (draining)"
    assert row[4:6] == ("-", "-")
    assert row[-1] == "-"


def facts(**fields: Any) -> dict[str, str]:
    return dict(view.job_facts({**JOB, **fields}, []))


def test_a_jobs_facts_name_what_it_needs_and_where_it_works() -> None:
    told = facts()
    assert told["needs"] == "nothing in particular"
    assert told["repository"] == "https://git.example/shop.git"
    assert told["retries"] == "0 of 2 used"
    assert told["stage"] == "queued since 2030-01-01 12:00:00"
    assert not {"blocked", "checkpoint", "result", "branch", "verify"} & set(told)
    assert facts(repo=None, cwd="/work/shop")["repository"] == "/work/shop"
    assert facts(repo=None)["repository"] == "none: an empty tree"
    assert facts(capabilities=["gpu", "python"])["needs"] == "gpu, python"


def test_a_jobs_facts_tell_why_it_is_blocked_and_what_is_saved() -> None:
    checkpoint = {"ref": common.REF, "commit": common.COMMIT}
    told = facts(blockedReason={"kind": "deps", "text": "waits for x"}, checkpoint=checkpoint)
    assert told["blocked"] == "waits for x"
    assert told["checkpoint"] == f"{common.COMMIT[:12]} ({common.REF})"


def test_a_jobs_facts_tell_its_result_with_the_evidence_of_each_command() -> None:
    verify = [{"command": "make", "rc": 0}, {"command": "make test", "rc": 2}]
    result = {"outcome": "verify_failed", "summary": " two failed \n", "branch": "b", "verify": verify}
    told = view.job_facts({**JOB, "result": result}, [])
    assert ("result", "verify_failed: two failed") in told
    assert ("branch", "b") in told
    assert [value for name, value in told if name == "verify"] == ["make -> 0", "make test -> 2"]
    assert facts(result={"outcome": "ok", "summary": None})["result"] == "ok: "


def test_a_jobs_facts_end_with_its_terms() -> None:
    runs = [
        {"leaseEpoch": 1, "factoryId": "f1", "outcome": "lost"},
        {"leaseEpoch": 2, "factoryId": "f2", "outcome": None},
    ]
    assert view.job_facts(JOB, runs)[-2:] == [("run", "term 1 on f1: lost"), ("run", "term 2 on f2: running")]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ["1", "12:00:00", "submitted", " queued ", "operator:ann"]),
        ({"from": "queued", "to": "assigned", "data": {"factoryId": "f1"}}, ["queued -> assigned", "f1"]),
        ({"from": "building", "to": "building", "data": {"commit": "a" * 40}}, [" building ", "a" * 12]),
        ({"data": {"outcome": "lost", "factoryId": "f1"}}, ["lost"]),
        ({"data": {"reason": "because"}}, ["because"]),
        ({"data": {"commit": None, "reason": None}}, ["operator:ann"]),
        ({"data": None}, ["operator:ann"]),
    ],
)
def test_an_events_line_says_what_moved_by_whom_and_why(fields: dict[str, Any], words: list[str]) -> None:
    line = view.event_line({**common.EVENT, **fields})
    assert all(word in line for word in words), line
    assert line == line.rstrip()


def test_an_explanation_begins_with_its_reason_and_tells_each_candidate() -> None:
    told = runs.EXPLANATION
    fits = {"factoryId": "f2", "feasible": True, "obstacles": [], "score": 4.25, "terms": {"load": 1.0}}
    lines = view.explanation_lines({**told, "candidates": [fits, *told["candidates"]]})
    assert lines[0] == "No factory offers engine claude."
    assert lines[1] == "would start if a factory with engine claude joins"
    assert "f2" in lines[2]
    assert "4.250  could run it" in lines[2]
    assert lines[3].strip() == "load 1.00"
    assert "builder-2 has no engine claude" in lines[4]
    assert lines[5].strip() == "capabilityFit 1.00  load 1.00"


@pytest.mark.parametrize(
    ("fields", "is_finished"),
    [
        ({"stage": "queued"}, False),
        ({"stage": "building"}, False),
        ({"stage": "review"}, False),
        ({"stage": "testing"}, False),
        ({"stage": "shipped"}, True),
        ({"stage": "dead_letter"}, True),
        ({"stage": "failed", "result": {"outcome": "cancelled"}}, True),
        ({"stage": "failed", "result": {"outcome": "timeout"}}, False),
        ({"stage": "failed", "result": {"outcome": "timeout"}, "notBefore": common.LATER}, False),
        ({"stage": "failed", "result": None}, True),
    ],
)
def test_a_job_is_finished_when_nothing_happens_to_it_by_itself(fields: dict[str, Any], is_finished: bool) -> None:
    assert view.is_finished({**JOB, **fields}) is is_finished


def test_what_others_wrote_does_not_steer_the_terminal() -> None:
    evil = "a\x1b[2J\x07\n\r\tb\u202ec\u00e4\u20ac"
    assert view.plain(evil) == "a [2J    b c\u00e4\u20ac"
    steering = {**JOB, "title": evil, "repo": evil, "result": {"outcome": "ok", "summary": evil, "branch": evil}}
    shown = [
        *view.job_row(steering),
        *[value for _, value in view.job_facts(steering, [])],
        view.event_line({**common.EVENT, "data": {"reason": evil}}),
    ]
    assert all(char.isprintable() for text in shown for char in text)


def test_what_a_job_printed_does_not_steer_a_terminal() -> None:
    shown = view.harmless("\x1b]0;OWNED\x07\x1b[2J\ttab\r\nzażółć 50%\r100%\x9b\n")
    assert shown == "\u241b]0;OWNED\u2407\u241b[2J\ttab\nzażółć 50%\n100%\ufffd\n"
