"""What an engine prints is bounded and kept, whatever becomes of the disk; its tail tells how it ended."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest

from factory.term_log import BEGINNING_BYTES, CUT, END_BYTES, LEFT_OUT, NOT_KEPT, TAIL_CHARS, LogFile, TermLog
from tests.support.virtual import in_virtual_time

FULL = Path("/dev/full")


def begun(folder: Path) -> tuple[TermLog, LogFile]:
    file = LogFile(folder / "logs" / "job1-1.log")
    return TermLog(file, "job1"), file


def whole(file: LogFile, step: int = 1 << 20) -> bytes:
    found = b""
    while data := file.read(len(found), step):
        found += data
    return found


@in_virtual_time
async def test_what_was_printed_is_on_disk_and_read_back_in_pieces(tmp_path: Path) -> None:
    log, file = begun(tmp_path)
    for number in range(50):
        log.take(f"line {number}: żółw 🐢\n".encode() * 40)
    assert whole(file, 1000) == file.path.read_bytes()
    assert len(whole(file)) == file.size
    log.close()
    assert file.closed
    assert whole(LogFile.left_over(file.path)) == file.path.read_bytes()


@in_virtual_time
async def test_bytes_that_are_no_utf8_are_replaced_and_characters_split_between_reads_are_not(tmp_path: Path) -> None:
    log, file = begun(tmp_path)
    turtle = "🐢".encode()
    for data in (b"\xff\xfe ok ", turtle[:1], turtle[1:3], turtle[3:], b"\x80\n"):
        log.take(data)
    assert whole(file).decode() == "\ufffd\ufffd ok 🐢\ufffd\n" == log.tail()
    log.close()


@in_virtual_time
async def test_a_hundred_megabytes_are_read_counted_and_cut(tmp_path: Path) -> None:
    log, file = begun(tmp_path)
    block = random.Random(1).randbytes(64 * 1024)  # a third of it is no UTF-8, which grows when it is replaced
    for _ in range(1600):
        log.take(block)
    log.take(b"\nthe very end")
    kept = whole(file)
    assert len(kept) <= BEGINNING_BYTES + len(CUT)
    assert kept.decode().endswith(CUT)
    assert log.tail().endswith("the very end")
    assert len(log.tail()) <= TAIL_CHARS
    log.close()
    assert whole(file).decode().endswith("\nthe very end")
    assert len(whole(file)) <= BEGINNING_BYTES + END_BYTES + len(CUT) + len(LEFT_OUT) + 20


@in_virtual_time
async def test_of_a_log_that_is_too_long_the_beginning_and_the_last_lines_are_kept_and_the_gap_is_counted(
    tmp_path: Path,
) -> None:
    log, file = begun(tmp_path)
    lines = [f"line {number} żółw\n".encode() for number in range(400_000)]
    for line in lines:
        log.take(line)
    log.close()
    beginning, rest = whole(file).decode().split(CUT)
    assert lines[0].decode() in beginning
    mark, _, end = rest.partition("]\n")
    left_out = int(mark.split()[1])
    kept = end.encode()
    assert kept.splitlines(keepends=True) == lines[-kept.count(b"\n") :], "whole lines, and the last ones"
    assert END_BYTES - 100 < len(kept) <= END_BYTES
    assert len(beginning.encode()) + left_out + len(kept) == sum(map(len, lines))


@in_virtual_time
async def test_a_log_that_is_a_little_too_long_loses_nothing(tmp_path: Path) -> None:
    log, file = begun(tmp_path)
    for _ in range(BEGINNING_BYTES // 1024 + 100):
        log.take(b"x" * 1023 + b"\n")
    log.close()
    assert whole(file).decode().replace(CUT, "") == ("x" * 1023 + "\n") * (BEGINNING_BYTES // 1024 + 100)


@in_virtual_time
async def test_the_tail_since_a_mark_holds_only_what_came_after_it(tmp_path: Path) -> None:
    log, _ = begun(tmp_path)
    log.take(b"the engine says this\n")
    mark = log.heard
    assert log.tail(since=mark) == ""
    log.take(b"verify says that\n")
    assert log.tail(since=mark) == "verify says that\n"
    log.take(b"x" * 2 * TAIL_CHARS)
    assert log.tail(since=mark) == "x" * TAIL_CHARS
    log.close()


@pytest.mark.skipif(not FULL.exists(), reason="a disk that is always full is asked of Linux")
@in_virtual_time
async def test_what_a_full_disk_does_not_take_is_kept_in_memory_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "job1-1.log").symlink_to(FULL)
    with caplog.at_level(logging.WARNING, "factory.term_log"):
        log, file = begun(tmp_path)
        log.take(b"one\n")
        mark = log.heard
        log.take(b"two\n")
        log.take(b"three\n")
        log.close()
    said = NOT_KEPT.format("No space left on device")
    assert whole(file).decode() == f"one\n{said}two\nthree\n" == log.tail()
    assert log.tail(since=mark) == "two\nthree\n"
    assert len(caplog.records) == 1


@in_virtual_time
async def test_a_log_that_cannot_even_be_begun_is_kept_in_memory(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("no folder")
    log, file = begun(tmp_path)
    log.take(b"one\n")
    log.close()
    assert whole(file).decode().endswith("...]\none\n")
