"""Logs: written by the holder only, bounded, read and followed by those who are allowed to."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator import term_logs as module
from coordinator.http.runs import REST_OF_LOG_S
from coordinator.term_logs import LogFiles
from schemas.errors import ErrorCode, FleetError
from schemas.ids import JobKey
from schemas.messages import LOG_CHUNK_MAX, LogChunk
from tests.support.full_disk import full_disk
from tests.support.rest import RestWorld, problem_of
from tests.support.virtual import in_virtual_time

KEY = JobKey("shop", "j1")


def chunk(offset: int, text: str, epoch: int = 1, last: bool | None = None) -> LogChunk:
    return LogChunk(
        product_id=KEY.product_id, job_id=KEY.job_id, lease_epoch=epoch, offset=offset, text=text, last=last
    )


def whole(logs: LogFiles, epoch: int = 1) -> str:
    text, at = "", 0
    while True:
        more, at = logs.read(KEY, epoch, at)
        if not more:
            return text
        text += more


@in_virtual_time
async def test_the_holder_writes_and_anybody_entitled_reads(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    assert (await world.get(f"/jobs/{job_id}/logs", world.ann)).json()["text"] == ""
    await world.claimed()
    for offset, text in ((0, "one\n"), (4, "zwei ä\n")):
        body = {"leaseEpoch": 1, "offset": offset, "text": text}
        answer = await world.post(f"/jobs/{job_id}/logs", world.f1, json=body)
        assert answer.json() == {"v": 1, "heard": offset + len(text.encode())}
    page = (await world.get(f"/jobs/{job_id}/logs", world.ann)).json()
    assert page == {
        "leaseEpoch": 1,
        "epochs": [1],
        "offset": 0,
        "text": "one\nzwei ä\n",
        "nextOffset": 12,
        "complete": False,
    }
    rest = (await world.get(f"/jobs/{job_id}/logs?offset=4&epoch=1", world.ann)).json()
    assert (rest["text"], rest["nextOffset"]) == ("zwei ä\n", 12)
    end = (await world.get(f"/jobs/{job_id}/logs?offset=12", world.ann)).json()
    assert (end["text"], end["nextOffset"]) == ("", 12)
    beyond = (await world.get(f"/jobs/{job_id}/logs?offset={2**53}", world.ann)).json()
    assert beyond["text"] == ""


@in_virtual_time
async def test_nobody_but_the_terms_own_session_writes_and_it_may_after_the_terms_end(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    await world.claimed(world.f1)
    body = {"leaseEpoch": 1, "offset": 0, "text": "x"}
    problem_of(await world.post(f"/jobs/{job_id}/logs", world.f2, json=body), 409, "fenced")
    problem_of(await world.post(f"/jobs/{job_id}/logs", world.f1, json={**body, "leaseEpoch": 2}), 409, "fenced")
    problem_of(await world.post(f"/jobs/{job_id}/logs", world.f1, json={**body, "sessionId": "s9"}), 409, "fenced")
    problem_of(await world.post(f"/jobs/{job_id}/logs", world.ann, json=body), 403, "forbidden")
    problem_of(await world.get(f"/jobs/{job_id}/logs", world.bob), 404, "not_found")
    await world.post(f"/jobs/{job_id}/lease/release", world.f1, json={"leaseEpoch": 1})
    problem_of(await world.post(f"/jobs/{job_id}/logs", world.f2, json=body), 409, "fenced")
    problem_of(await world.post(f"/jobs/{job_id}/logs", world.f1, json={**body, "sessionId": "s9"}), 409, "fenced")
    assert (await world.get(f"/jobs/{job_id}/logs", world.ann)).json()["text"] == ""
    assert (await world.post(f"/jobs/{job_id}/logs", world.f1, json=body)).json()["heard"] == 1
    assert (await world.get(f"/jobs/{job_id}/logs", world.ann)).json()["text"] == "x"


@in_virtual_time
async def test_a_log_whose_end_has_not_come_says_so_and_is_waited_for_a_while(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    await world.claimed()
    body = {"leaseEpoch": 1, "offset": 0, "text": "a", "last": False}
    await world.post(f"/jobs/{job_id}/logs", world.f1, json=body)
    await world.post(f"/jobs/{job_id}/lease/release", world.f1, json={"leaseEpoch": 1})
    assert not (await world.get(f"/jobs/{job_id}/logs", world.ann)).json()["complete"]
    async with world.streamed(f"/api/fleet/jobs/{job_id}/logs?follow=true", world.ann) as stream:
        await asyncio.sleep(REST_OF_LOG_S / 2)
        assert stream.events() == [("log", "1")]
        await asyncio.sleep(REST_OF_LOG_S)
        assert stream.events() == [("log", "1"), ("end", "")]
    assert '"complete":false' in stream.text
    await world.post(f"/jobs/{job_id}/logs", world.f1, json={**body, "offset": 1, "text": "b", "last": True})
    assert (await world.get(f"/jobs/{job_id}/logs", world.ann)).json()["complete"]
    await world.post(f"/jobs/{job_id}/logs", world.f1, json=body)  # a late repeat of the first piece
    page = (await world.get(f"/jobs/{job_id}/logs", world.ann)).json()
    assert (page["text"], page["complete"]) == ("ab", True)


@in_virtual_time
async def test_a_chunk_over_the_bound_or_without_its_place_is_refused(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    await world.claimed()
    body = {"leaseEpoch": 1, "offset": 0, "text": "x"}
    for wrong in ({"text": "x" * (LOG_CHUNK_MAX + 1)}, {"text": None}, {"offset": -1}, {"offset": 2**60}):
        answer = await world.post(f"/jobs/{job_id}/logs", world.f1, json={**body, **wrong})
        assert "body." in problem_of(answer, 422, "invalid_request")["detail"]


@in_virtual_time
async def test_the_latest_term_that_printed_is_shown_unless_another_is_named(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    for epoch, text in ((1, "first"), (2, "second")):
        await world.claimed(request_id=f"r{epoch}")
        await world.post(f"/jobs/{job_id}/logs", world.f1, json={"leaseEpoch": epoch, "offset": 0, "text": text})
        await world.post(f"/jobs/{job_id}/lease/release", world.f1, json={"leaseEpoch": epoch})
    page = (await world.get(f"/jobs/{job_id}/logs", world.ann)).json()
    assert (page["text"], page["leaseEpoch"], page["epochs"]) == ("second", 2, [1, 2])
    assert (await world.get(f"/jobs/{job_id}/logs?epoch=1", world.ann)).json()["text"] == "first"
    assert (await world.get(f"/jobs/{job_id}/logs?epoch=9", world.ann)).json()["text"] == ""


@in_virtual_time
async def test_following_tells_what_is_printed_and_ends_with_the_term(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    await world.claimed()
    async with world.streamed(f"/api/fleet/jobs/{job_id}/logs?follow=true", world.ann) as stream:
        for offset, text in ((0, "a"), (1, "b")):
            await world.post(f"/jobs/{job_id}/logs", world.f1, json={"leaseEpoch": 1, "offset": offset, "text": text})
            await asyncio.sleep(1)
        assert stream.events() == [("log", "1"), ("log", "2")]
        await world.post(f"/jobs/{job_id}/logs", world.f1, json={"leaseEpoch": 1, "offset": 2, "text": "last"})
        await world.patch(job_id, world.f1, {"leaseEpoch": 1, "result": {"outcome": "ok"}})
        await asyncio.sleep(1)
        assert stream.events() == [("log", "1"), ("log", "2"), ("log", "6"), ("end", "")]
        assert stream.task.done()
    assert 'data: {"stage":"review","complete":true}' in stream.text


@in_virtual_time
async def test_a_log_of_which_nothing_has_come_yet_is_not_complete(world: RestWorld) -> None:
    """Its holder says at the end of the term how long it is; what is on its way then is waited for."""
    await world.enrolled()
    job_id = await world.submitted()
    async with world.streamed(f"/api/fleet/jobs/{job_id}/logs?follow=true", world.ann) as stream:
        await asyncio.sleep(1)
        assert not stream.task.done()  # nobody has the job yet: its log is to come
        await world.claimed()
        assert not (await world.get(f"/jobs/{job_id}/logs", world.ann)).json()["complete"]
        result = {"leaseEpoch": 1, "result": {"outcome": "ok"}, "insights": {"logBytes": 3}}
        assert (await world.patch(job_id, world.f1, result)).status_code == 200
        assert not (await world.get(f"/jobs/{job_id}/logs", world.ann)).json()["complete"]
        await asyncio.sleep(1)
        assert stream.events() == []
        body = {"leaseEpoch": 1, "offset": 0, "text": "all", "last": True}
        await world.post(f"/jobs/{job_id}/logs", world.f1, json=body)
        await asyncio.sleep(1)
        assert stream.events() == [("log", "3"), ("end", "")]
    assert (await world.get(f"/jobs/{job_id}/logs", world.ann)).json()["complete"]


@pytest.mark.parametrize("insights", [{}, {"logBytes": 0}], ids=["says nothing of logs", "printed nothing"])
@in_virtual_time
async def test_the_log_of_a_holder_that_sends_none_is_complete_at_its_end(
    world: RestWorld, insights: dict[str, int]
) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    await world.claimed()
    await world.patch(job_id, world.f1, {"leaseEpoch": 1, "result": {"outcome": "ok"}, "insights": insights})
    assert (await world.get(f"/jobs/{job_id}/logs", world.ann)).json()["complete"]


def test_a_repeat_changes_nothing_and_an_overlap_adds_what_is_new(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path)
    logs.append(chunk(0, "hello "))
    logs.append(chunk(0, "hello "))
    logs.append(chunk(3, "lo world"))
    assert whole(logs) == "hello world"


def test_a_gap_is_marked_with_its_size(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path)
    logs.append(chunk(0, "a"))
    logs.append(chunk(11, "b"))
    assert whole(logs) == "a\n[... 10 bytes were not heard ...]\nb"


def test_a_coordinator_that_starts_again_goes_on_where_the_log_was_behind_a_gap_too(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path)
    logs.append(chunk(0, "a"))
    logs.append(chunk(11, "b"))
    before = whole(logs)
    again = LogFiles(tmp_path)
    again.append(chunk(11, "b"))
    again.append(chunk(12, "cd"))
    assert whole(again) == before + "cd"


def test_a_log_is_bounded_and_says_where_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_BYTES_MAX", 100)
    logs = LogFiles(tmp_path)
    for number in range(50):
        logs.append(chunk(number * 30, "x" * 30))
    assert whole(logs).count("the log is cut here") == 1
    assert len(whole(logs)) < 300


def test_a_page_never_splits_a_character(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path)
    text = "a" + "€" * 50
    logs.append(chunk(0, text))
    at, found = 0, ""
    while True:
        more, at = logs.read(KEY, 1, at, limit=10)
        if not more:
            break
        found += more
    assert found == text


def test_a_page_from_within_a_character_loses_nothing_behind_it(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path)
    logs.append(chunk(0, "€uro and more"))
    text, at = logs.read(KEY, 1, 1, limit=6)
    assert (text, at) == ("\ufffd\ufffduro ", 7)
    assert logs.read(KEY, 1, at) == ("and more", 15)


def test_many_terms_are_remembered_within_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED_MAX", 3)
    logs = LogFiles(tmp_path)
    for epoch in range(1, 8):
        logs.append(chunk(0, "ab", epoch))
    for epoch in range(1, 8):
        logs.append(chunk(1, "bc", epoch))
    assert {whole(logs, epoch) for epoch in range(1, 8)} == {"abc"}
    assert len(logs._heard) == 3
    assert logs.epochs(KEY) == list(range(1, 8))


def test_a_log_that_cannot_be_written_is_said_and_not_acknowledged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "shop").write_text("a file where a folder should be")
    with pytest.raises(FleetError):
        LogFiles(tmp_path).append(chunk(0, "x"))
    assert "cannot be kept" in caplog.text


def test_what_a_full_disk_does_not_take_is_not_acknowledged_and_its_repeat_is_kept_once(tmp_path: Path) -> None:
    logs, first, last = LogFiles(tmp_path), "a" * 60_000, chunk(60_000, "z" * 30_000, last=True)
    logs.append(chunk(0, first, last=False))
    with full_disk(65_536):
        for _ in range(2):
            with pytest.raises(FleetError) as refused:
                logs.append(last)
            assert refused.value.code is ErrorCode.UNAVAILABLE
        assert whole(logs) == first
        assert logs.is_open(KEY, 1)
    again = LogFiles(tmp_path)
    assert (logs.append(last), again.append(last)) == (90_000, 90_000)
    assert whole(logs) == first + last.text
    assert not logs.is_open(KEY, 1)


@in_virtual_time
async def test_a_full_disk_refuses_a_piece_of_a_log_until_it_has_room_and_fails_no_job(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    await world.claimed()
    body = {"leaseEpoch": 1, "offset": 0, "text": "x" * 30_000, "last": True}
    with full_disk(16_384):
        problem_of(await world.post(f"/jobs/{job_id}/logs", world.f1, json=body), 503, "unavailable")
        assert (await world.patch(job_id, world.f1, {"leaseEpoch": 1, "result": {"outcome": "ok"}})).status_code == 200
    assert (await world.post(f"/jobs/{job_id}/logs", world.f1, json=body)).json()["heard"] == 30_000
    page = (await world.get(f"/jobs/{job_id}/logs", world.ann)).json()
    assert (page["text"], page["complete"]) == (body["text"], True)


def test_an_end_behind_a_gap_marks_the_gap(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path)
    logs.append(chunk(0, "a", last=False))
    logs.append(chunk(100, "", last=True))
    assert whole(logs) == "a" + module.GAP.format(99)


@pytest.mark.parametrize("dies", ["before the log", "after the log"])
def test_a_piece_behind_a_gap_is_there_once_when_its_coordinator_dies_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    """The process ends between two of its writes: what it did not acknowledge is sent to the next one again."""
    logs, real, notes = LogFiles(tmp_path), module._note_heard, []
    logs.append(chunk(0, "a"))

    def note(beside: Path, size: int, heard: int) -> None:
        notes.append(heard)
        if len(notes) == (1 if dies == "before the log" else 2):
            raise KeyboardInterrupt
        real(beside, size, heard)

    monkeypatch.setattr(module, "_note_heard", note)
    with pytest.raises(KeyboardInterrupt):
        logs.append(chunk(10, "z"))
    monkeypatch.setattr(module, "_note_heard", real)
    again = LogFiles(tmp_path)
    assert again.append(chunk(10, "z")) == 11
    assert whole(again) == "a" + module.GAP.format(9) + "z"
    assert LogFiles(tmp_path).append(chunk(11, "!")) == 12


def test_a_full_disk_loses_no_note_of_how_far_a_log_was_heard(tmp_path: Path) -> None:
    logs = LogFiles(tmp_path)
    logs.append(chunk(10, "z"))
    size = len(whole(logs))
    with full_disk(size), pytest.raises(FleetError):
        logs.append(chunk(11, "more"))
    assert LogFiles(tmp_path).append(chunk(11, "more")) == 15
    assert whole(logs).endswith("zmore")
