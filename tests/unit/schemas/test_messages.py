"""Each message has a golden sample: what one version says, the next one still understands."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from schemas import messages
from schemas.base import Schema
from schemas.messages import ClaimRequest, FromFactory, FromHolder, HeartbeatRequest, ReportRequest, WireMessage

AT = '"2030-01-01T00:00:00.000000Z"'
TERM = f'"term": {{"leaseLeftS": 60.0, "renewEveryS": 20.0, "startWithinS": 30.0, "now": {AT}}}'
STOP = '"stop": {"kind": "cancel", "byS": 30.0, "reason": "wrong branch"}'
ASKER = '"v": 1, "factoryId": "f1", "sessionId": "s1", "askNo": 7'
JOB = '"productId": "shop", "jobId": "j1", "leaseEpoch": 2'
HELD = f'{{{JOB}, "progressAt": {AT}, "phase": "verify: make"}}'
CHECKPOINT = (
    f'"checkpoint": {{"ref": "refs/gigafactory/j1/2", "commit": "{"a" * 40}", "at": {AT}, "leaseEpoch": 2, '
    '"number": 3, "local": "f1"}'
)
GRANT = (
    f'{{{JOB}, "requestId": "r1", "runId": "j1:2", "attempt": 2, "title": "Fix it", "engine": "claude", '
    f'"manifestSnapshot": "---\\nengine: claude\\n---\\n", "bodyMd": "Fix it\\n", "profile": "backend@3", '
    f'"repo": "git@example.com:shop.git", "cwd": null, "ref": "main", "verify": ["make test"], "timeoutS": 3600.0, '
    f'"idleS": 60.0, "network": false, "publishOnly": true, "retriesUsed": 1, '
    f'"budget": {{"usd": 2.5, "tokens": 1000, "wallS": 60.0}}, "yolo": true, {CHECKPOINT}, "started": false, '
    f"{STOP}, {TERM}}}"
)
CLAIM_ANSWER = f'{{"v": 1, "grants": [{GRANT}], "reason": null}}'
RESULT = (
    '"result": {"outcome": "ok", "summary": "done", "branch": "fix", "commit": "abc", "pullRequest": "https://x/1", '
    '"verify": [{"command": "make test", "rc": 0, "tail": "ok"}], "claimed": "all green"}'
)
INSIGHTS = '"insights": {"tokensIn": 10, "tokensOut": 5, "costUsd": 0.25, "diff": {"files": 2}, "logBytes": 7}'
ERROR = '{"code": "fenced", "message": "stop now", "detail": {"leaseEpoch": 3}}'

GOLDEN: dict[str, str] = {
    "HelloRequest": (
        f'{{{ASKER}, "sessionNo": 4, "takeover": true, "capabilities": ["python"], "engines": ["claude", "shell"], '
        '"workspaces": ["/home/ann"], "seatLimit": 2, "transport": "bus", "version": "0.1.0", "os": "linux", '
        '"freeDiskBytes": 1000}'
    ),
    "HelloAnswer": (
        '{"v": 1, "opened": true, "sessionNo": 4, "products": ["shop"], "capabilities": ["python"], '
        '"heartbeatEveryS": 5.0, "leaseTtlS": 60.0, '
        f'"trustMarginS": 5.0, "warnings": ["gpu is not enrolled"], "now": {AT}}}'
    ),
    "ClaimRequest": (
        f'{{{ASKER}, "sessionNo": 4, "requestId": "r1", "max": 2, "waitS": 20.0, "productId": "shop", "jobId": "j1", '
        '"capabilities": ["python"], "engines": ["claude"]}'
    ),
    "ClaimAnswer": CLAIM_ANSWER,
    "StartRequest": f"{{{ASKER}, {JOB}}}",
    "RenewRequest": f"{{{ASKER}, {JOB}}}",
    "TermAnswer": f'{{"v": 1, "stage": "building", {STOP}, {TERM}}}',
    "CheckpointRequest": (
        f'{{{ASKER}, {JOB}, "number": 3, "ref": "refs/gigafactory/j1/2", "commit": "{"a" * 40}", "local": true}}'
    ),
    "LogChunk": f'{{"v": 1, {JOB}, "sessionId": "s1", "offset": 1024, "text": "compiling\\n", "last": false}}',
    "LogHeard": '{"v": 1, "heard": 1034}',
    "ReportRequest": (
        f'{{{ASKER}, {JOB}, {RESULT}, {INSIGHTS}, {CHECKPOINT}, "resetsAt": {AT}, "sessionNo": 4, '
        '"next": {"requestId": "r2", "max": 1}}'
    ),
    "ReleaseRequest": f'{{{ASKER}, {JOB}, "outcome": "preempted", "reason": "drained", {CHECKPOINT}}}',
    "EndAnswer": '{"v": 1, "stage": "shipped", "repeated": true}',
    "ReportAnswer": (
        '{"v": 1, "report": {"v": 1, "stage": "testing", "repeated": false}, '
        f'"reportError": {ERROR}, "next": {CLAIM_ANSWER}, "nextError": {ERROR}}}'
    ),
    "HeartbeatRequest": (
        f'{{{ASKER}, "sessionNo": 4, "holding": [{HELD}], "pending": ["r2"], "seatLimit": 2, '
        '"seatsUsed": 1, "load": 0.5, "health": "degraded", "transport": "rest", "draining": true, "unfit": "no disk", '
        '"engines": ["claude"], "freeDiskBytes": 1000}'
    ),
    "HeartbeatAnswer": (
        f'{{"v": 1, "terms": [{{{JOB}, "granted": true, {STOP}, {TERM}}}], "heartbeatEveryS": 5.0, "now": {AT}}}'
    ),
    "Offer": (
        '{"v": 1, "productId": "shop", "jobId": "j1", "leaseEpoch": 2, "offerNo": 3, "round": 1, "invited": ["f1"], '
        f'"capabilities": ["python"], "engine": "codex", "priority": "high", "cwd": "/home/ann", "expiresAt": {AT}, '
        f'"now": {AT}}}'
    ),
    "Control": f'{{"v": 1, "order": "preempt", {JOB}, "byS": 30.0, "reason": "a critical job waits"}}',
    "EndedRequest": f'{{{ASKER}, "jobIds": ["j1", "j2"], "forS": 86400.0}}',
    "EndedAnswer": '{"v": 1, "jobIds": ["j1"]}',
    "RosterNote": f'{{"v": 1, "factory": {{"id": "f1", "load": 0.5}}, "heardAt": {AT}, "holding": [{HELD}]}}',
}


def kind(name: str) -> type[Schema]:
    found: type[Schema] = getattr(messages, name)
    return found


def golden(name: str) -> dict[str, Any]:
    doc: dict[str, Any] = json.loads(GOLDEN[name])
    return doc


def test_every_message_has_a_golden_sample() -> None:
    kinds = {n for n, c in vars(messages).items() if isinstance(c, type) and issubclass(c, WireMessage)}
    assert set(GOLDEN) == kinds - {c.__name__ for c in (WireMessage, FromFactory, FromHolder)}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_sample_is_read_and_written_as_it_is(name: str) -> None:
    assert kind(name).model_validate(golden(name)).to_doc() == golden(name)
    assert kind(name).model_validate_json(GOLDEN[name]).to_doc() == golden(name)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_sample_sets_every_field_that_its_message_has(name: str) -> None:
    fields = {str(field.alias) for field in kind(name).model_fields.values()}
    assert set(golden(name)) == fields


def with_surprises(value: Any) -> Any:
    if isinstance(value, list):
        return [with_surprises(item) for item in value]
    if isinstance(value, dict):
        return {**{k: with_surprises(v) for k, v in value.items()}, "ofTheNextVersion": {"a": [1]}}
    return value


@pytest.mark.parametrize("name", sorted(set(GOLDEN) - {"ReportAnswer", "RosterNote", "ReportRequest"}))
def test_unknown_fields_are_ignored_wherever_they_stand(name: str) -> None:
    assert kind(name).model_validate(with_surprises(golden(name))).to_doc() == golden(name)


@pytest.mark.parametrize("name", ["ReportAnswer", "RosterNote", "ReportRequest"])
def test_unknown_fields_beside_those_of_a_message_with_a_free_part_are_ignored(name: str) -> None:
    assert kind(name).model_validate({**golden(name), "ofTheNextVersion": 1}).to_doc() == golden(name)


def fields_of(required: bool) -> list[tuple[str, str]]:
    return [
        (name, str(field.alias))
        for name in GOLDEN
        for field in kind(name).model_fields.values()
        if field.is_required() == required
    ]


@pytest.mark.parametrize(("name", "field"), fields_of(required=False))
def test_an_optional_field_may_be_missing(name: str, field: str) -> None:
    doc = golden(name)
    del doc[field]
    read = kind(name).model_validate(doc).to_doc()
    assert {key: value for key, value in read.items() if key != field} == doc


@pytest.mark.parametrize(("name", "field"), fields_of(required=True))
def test_a_required_field_may_not(name: str, field: str) -> None:
    doc = golden(name)
    del doc[field]
    with pytest.raises(ValidationError, match=field):
        kind(name).model_validate(doc)


@pytest.mark.parametrize("name", GOLDEN)
def test_another_version_is_not_taken_for_this_one(name: str) -> None:
    with pytest.raises(ValidationError, match="v"):
        kind(name).model_validate({**golden(name), "v": 2})


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("StartRequest", "leaseEpoch", 0),
        ("StartRequest", "jobId", "a.b"),
        ("StartRequest", "factoryId", "f*"),
        ("StartRequest", "productId", "any"),
        ("StartRequest", "sessionId", "s 1"),
        ("StartRequest", "askNo", -1),
        ("ClaimRequest", "requestId", "r1\n"),
        ("ClaimRequest", "max", 0),
        ("ClaimRequest", "max", 257),
        ("ClaimRequest", "waitS", 61),
        ("ClaimRequest", "waitS", "nan"),
        ("ClaimRequest", "engines", ["gpt"]),
        ("ClaimRequest", "capabilities", ["a"] * 65),
        ("CheckpointRequest", "number", 0),
        ("CheckpointRequest", "commit", "main"),
        ("CheckpointRequest", "commit", "a" * 39),
        ("ReleaseRequest", "outcome", "ok"),
        ("ReleaseRequest", "outcome", "lost"),
        ("ReleaseRequest", "reason", "x" * 4001),
        ("HeartbeatRequest", "seatsUsed", -1),
        ("HeartbeatRequest", "load", -0.1),
        ("HeartbeatRequest", "health", "fine"),
        ("HelloRequest", "seatLimit", 0),
        ("HelloRequest", "sessionNo", 0),
        ("LogChunk", "offset", -1),
        ("LogChunk", "text", "x" * (64 * 1024 + 1)),
        ("Control", "order", "stop"),
        ("ReportRequest", "resetsAt", "2030-01-01T00:00:00"),
    ],
)
def test_a_value_outside_its_bounds_is_refused(name: str, field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        kind(name).model_validate({**golden(name), field: value})


def test_a_timestamp_is_sent_in_utc_and_in_a_width_that_sorts() -> None:
    moments = ["2030-01-01T02:00:00+02:00", "2030-01-01T00:00:00.5Z", "2030-01-01T00:00:01Z"]
    read = [ReportRequest.model_validate({**golden("ReportRequest"), "resetsAt": at}).to_doc() for at in moments]
    texts = [doc["resetsAt"] for doc in read]
    assert texts[0] == "2030-01-01T00:00:00.000000Z"
    assert texts == sorted(texts)


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_timestamp_beyond_the_calendar_in_utc_is_refused_as_any_bad_value(at: str) -> None:
    with pytest.raises(ValidationError, match="resetsAt"):
        ReportRequest.model_validate({**golden("ReportRequest"), "resetsAt": at})


@pytest.mark.parametrize(
    "insights",
    [{"costUsd": -5}, {"tokensIn": -1}, {"tokensOut": -1}, {"costUsd": "Infinity"}, {"costUsd": "nan"}],
    ids=str,
)
def test_a_report_cannot_give_money_or_tokens_back_nor_spend_without_end(insights: dict[str, Any]) -> None:
    """They are added to the job's spend and the product's ledger, where nobody would ever get them out again."""
    with pytest.raises(ValidationError, match="insights"):
        ReportRequest.model_validate({**golden("ReportRequest"), "insights": insights})


@pytest.mark.parametrize(
    ("name", "doc"),
    [
        ("ReportRequest", {"insights": {"tokensIn": 2**64}}),
        ("HeartbeatRequest", {"freeDiskBytes": 2**64}),
        ("HelloRequest", {"sessionNo": 2**64}),
        ("ClaimRequest", {"sessionNo": 2**64, "askNo": 2**64}),
    ],
)
def test_a_number_that_no_document_can_hold_is_refused_rather_than_answered_as_our_fault(
    name: str, doc: dict[str, Any]
) -> None:
    try:
        read = kind(name).model_validate({**golden(name), **doc})
    except ValidationError:
        return
    assert orjson.dumps(read.to_doc())


def test_rest_clients_without_a_session_speak_as_session_rest() -> None:
    ask = ClaimRequest.model_validate({"factoryId": "f1", "requestId": "r1"})
    assert (ask.session_id, ask.session_no, ask.max, ask.wait_s) == ("rest", None, 1, 0)


def test_a_message_cannot_be_changed_once_made() -> None:
    beat = HeartbeatRequest.model_validate(golden("HeartbeatRequest"))
    with pytest.raises(ValidationError):
        beat.load = 0.0
