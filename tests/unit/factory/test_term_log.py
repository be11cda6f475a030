"""What an engine prints is bounded on disk and on the wire, and what is heard can be put together byte by byte."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path

import pytest

from coordinator.term_logs import GAP, LogFiles
from factory.term_log import CHUNK_CHARS, CLOSE_WITHIN_S, CUT, LOG_BYTES_MAX, NOT_KEPT, TAIL_CHARS, TermLog
from schemas.ids import JobKey
from schemas.messages import LOG_CHUNK_MAX, LogChunk
from tests.support.terms import grant
from tests.support.virtual import in_virtual_time
from tests.support.waiting import eventually

FULL = Path("/dev/full")
KEY = JobKey("shop", "job1")


class Wire(list[LogChunk]):
    """Keeps the chunks; each takes `takes_s` to send."""

    takes_s = 0.0

    async def send(self, chunk: LogChunk) -> None:
        await asyncio.sleep(self.takes_s)
        self.append(chunk)


def term_log(tmp_path: Path, session: Wire) -> TermLog:
    return TermLog(tmp_path / "term" / "log", grant(), "s1", session.send)


def on_disk(tmp_path: Path) -> bytes:
    return (tmp_path / "term" / "log").read_bytes()


def put_together(tmp_path: Path, chunks: list[LogChunk]) -> bytes:
    logs = LogFiles(tmp_path / "kept")
    for chunk in chunks:
        logs.append(chunk)
    path = tmp_path / "kept" / "shop" / "job1" / "1.log"
    return path.read_bytes() if path.exists() else b""


@in_virtual_time
async def test_the_chunks_put_together_are_what_is_on_disk(tmp_path: Path) -> None:
    session = Wire()
    log = term_log(tmp_path, session)
    for number in range(50):
        log.take(f"line {number}: żółw 🐢\n".encode() * 40)
        await asyncio.sleep(0.05)
    await log.close()
    assert len(session) > 5
    assert all(chunk.session_id == "s1" and chunk.lease_epoch == 1 for chunk in session)
    assert put_together(tmp_path, session) == on_disk(tmp_path)


@in_virtual_time
async def test_output_that_comes_while_a_chunk_is_being_sent_is_not_lost(tmp_path: Path) -> None:
    session = Wire()
    session.takes_s = 1.0
    log = term_log(tmp_path, session)
    log.take(b"first\n")
    await asyncio.sleep(0.5)  # the first is on its way
    log.take(b"second\n")
    await eventually(lambda: len(session) == 2)
    await log.close()
    assert put_together(tmp_path, session) == b"first\nsecond\n" == on_disk(tmp_path)


@in_virtual_time
async def test_repeated_chunks_change_nothing_and_a_gap_is_marked_with_its_size(tmp_path: Path) -> None:
    session = Wire()
    log = term_log(tmp_path, session)
    for number in range(6):
        log.take(f"{number}".encode() * 10 + b"\xc3\xa9\n")
        await asyncio.sleep(1)
    await log.close()
    chunks, whole = list(session), on_disk(tmp_path)
    repeated = [chunk for chunk in chunks for _ in range(2)]
    assert put_together(tmp_path / "a", repeated) == whole
    assert put_together(tmp_path / "b", [*chunks[:3], *chunks]) == whole
    lost = chunks[2]
    size = len(lost.text.encode())
    expected = whole[: lost.offset] + GAP.format(size).encode() + whole[lost.offset + size :]
    assert put_together(tmp_path / "c", [chunk for chunk in repeated if chunk is not lost]) == expected


@in_virtual_time
async def test_a_chunk_that_could_not_be_sent_costs_no_other_and_shows_as_a_gap(tmp_path: Path) -> None:
    session = Wire()
    fails = iter([False, True, False])

    async def send(chunk: LogChunk) -> None:
        if next(fails):
            raise ConnectionError("nobody listens")
        await session.send(chunk)

    log = TermLog(tmp_path / "log", grant(), "s1", send)
    for text in (b"one\n", b"two\n", b"three\n"):
        log.take(text)
        await asyncio.sleep(1)
    await log.close()
    assert put_together(tmp_path, session) == b"one\n" + GAP.format(4).encode() + b"three\n"


@in_virtual_time
async def test_bytes_that_are_no_utf8_are_replaced_and_characters_split_between_reads_are_not(tmp_path: Path) -> None:
    session = Wire()
    log = term_log(tmp_path, session)
    turtle = "🐢".encode()
    for data in (b"\xff\xfe ok ", turtle[:1], turtle[1:3], turtle[3:], b"\x80\n"):
        log.take(data)
    await log.close()
    assert on_disk(tmp_path).decode() == "\ufffd\ufffd ok 🐢\ufffd\n"
    assert put_together(tmp_path, session) == on_disk(tmp_path)
    assert log.tail() == "\ufffd\ufffd ok 🐢\ufffd\n"


@in_virtual_time
async def test_a_hundred_megabytes_are_read_counted_and_cut_on_disk_and_on_the_wire(tmp_path: Path) -> None:
    session = Wire()
    log = term_log(tmp_path, session)
    block = random.Random(1).randbytes(64 * 1024)  # a third of it is no UTF-8, which grows when it is replaced
    for _ in range(1600):
        log.take(block)
    log.take(b"\nthe very end")
    await log.close()
    kept = on_disk(tmp_path)
    assert len(kept) <= LOG_BYTES_MAX + len(CUT)
    assert kept.decode().endswith(CUT)
    assert sum(len(chunk.text.encode()) for chunk in session) == len(kept)
    assert max(len(chunk.text.encode()) for chunk in session) <= LOG_CHUNK_MAX
    assert put_together(tmp_path, session) == kept, "cut once and marked once"
    assert log.tail().endswith("the very end")
    assert len(log.tail()) <= TAIL_CHARS


@in_virtual_time
async def test_the_tail_since_a_mark_holds_only_what_came_after_it(tmp_path: Path) -> None:
    log = term_log(tmp_path, Wire())
    log.take(b"the engine says this\n")
    mark = log.heard
    assert log.tail(since=mark) == ""
    log.take(b"verify says that\n")
    assert log.tail(since=mark) == "verify says that\n"
    log.take(b"x" * 2 * TAIL_CHARS)
    assert log.tail(since=mark) == "x" * TAIL_CHARS
    await log.close()


@in_virtual_time
async def test_a_chunk_is_never_larger_than_a_message_may_be_whatever_its_characters(tmp_path: Path) -> None:
    session = Wire()
    log = term_log(tmp_path, session)
    log.take("🐢".encode() * CHUNK_CHARS * 3)
    await log.close()
    assert [len(chunk.text) for chunk in session] == [CHUNK_CHARS] * 3
    assert all(LogChunk.model_validate_json(chunk.model_dump_json(by_alias=True)) == chunk for chunk in session)
    assert put_together(tmp_path, session) == on_disk(tmp_path)


@in_virtual_time
async def test_nobody_listening_holds_up_the_end_of_a_term_for_a_moment_only(tmp_path: Path) -> None:
    session = Wire()
    session.takes_s = 3600.0
    log = term_log(tmp_path, session)
    log.take(b"x" * CHUNK_CHARS * 20)
    await asyncio.sleep(1)
    before_s = asyncio.get_running_loop().time()
    await log.close()
    assert asyncio.get_running_loop().time() - before_s <= CLOSE_WITHIN_S
    assert len(on_disk(tmp_path)) == CHUNK_CHARS * 20


@in_virtual_time
async def test_a_coordinator_that_hears_of_a_log_for_the_first_time_in_its_middle_says_so(tmp_path: Path) -> None:
    session = Wire()
    log = term_log(tmp_path, session)
    log.take(b"before\n")
    await asyncio.sleep(1)
    log.take(b"after\n")
    await log.close()
    assert put_together(tmp_path, session[1:]) == GAP.format(7).encode() + b"after\n"
    assert LogFiles(tmp_path / "kept").epochs(KEY) == [1]


@pytest.mark.skipif(not FULL.exists(), reason="a disk that is always full is asked of Linux")
@in_virtual_time
async def test_a_full_disk_ends_the_kept_log_and_nothing_else_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "term").mkdir()
    (tmp_path / "term" / "log").symlink_to(FULL)
    session = Wire()
    with caplog.at_level(logging.WARNING, "factory.term_log"):
        log = term_log(tmp_path, session)
        log.take(b"one\n")
        mark = log.heard
        log.take(b"two\n")
        await asyncio.sleep(1)
        log.take(b"three\n")
        await log.close()
    said = NOT_KEPT.format("No space left on device")
    assert put_together(tmp_path, session).decode() == f"one\n{said}two\nthree\n" == log.tail()
    assert log.tail(since=mark) == "two\nthree\n"
    assert len(caplog.records) == 1


@in_virtual_time
async def test_a_log_that_cannot_even_be_begun_is_sent_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "term").write_text("no folder")
    session = Wire()
    log = term_log(tmp_path, session)
    log.take(b"one\n")
    await log.close()
    assert put_together(tmp_path, session).decode().endswith("...]\none\n")
