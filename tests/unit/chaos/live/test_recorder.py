"""What a process noted before it was killed is in the history, whole; the parts of all processes are one by time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chaos.history import History, Record
from chaos.live.recorder import Recorder, gathered, records_of

LONG = "x" * 20_000  # more than one block of a file
MARKS = 2000

NOTES_AND_DIES = """
import os, pathlib, sys
from chaos.live.recorder import Recorder

recorder = Recorder(pathlib.Path(sys.argv[1]), float(sys.argv[2]))
for number in range(int(sys.argv[3])):
    recorder.note("mark", sys.argv[4], number=number, text=sys.argv[5])
os.kill(os.getpid(), 9)
"""


def dying(path: Path, began_s: float, who: str, marks: int, text: str = LONG) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", NOTES_AND_DIES, str(path), str(began_s), str(marks), who, text]
    return subprocess.Popen(argv)


def write(path: Path, *records: Record) -> None:
    path.write_bytes(b"".join(record.to_line() + b"\n" for record in records))


def mark(at: float, who: str = "world", **data: object) -> Record:
    return Record(at, "mark", who, dict(data))


@pytest.mark.xdist_group("processes")
def test_what_was_noted_right_before_a_sigkill_is_there_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    assert dying(path, time.monotonic(), "world", 3).wait(30) == -signal.SIGKILL
    assert path.read_bytes().endswith(b"\n")
    assert [record.data for record in records_of([path])] == [{"number": number, "text": LONG} for number in range(3)]


@pytest.mark.xdist_group("processes")
def test_processes_that_write_to_one_file_at_once_leave_each_others_records_whole(tmp_path: Path) -> None:
    path, began_s = tmp_path / "one.jsonl", time.monotonic()
    for process in [dying(path, began_s, name, MARKS, "y" * 500) for name in ("one", "other")]:
        assert process.wait(60) == -signal.SIGKILL
    found = records_of([path])
    for name in ("one", "other"):
        assert [record.data["number"] for record in found if record.who == name] == list(range(MARKS))


@pytest.mark.xdist_group("processes")
def test_times_of_different_processes_can_be_compared(tmp_path: Path) -> None:
    began_s = time.monotonic()
    here = Recorder(tmp_path / "here.jsonl", began_s)
    here.note("before", "world")
    assert dying(tmp_path / "there.jsonl", began_s, "world", 2, "").wait(30) == -signal.SIGKILL
    here.note("after", "world")
    here.close()
    records = gathered(tmp_path).records
    assert [record.kind for record in records] == ["before", "mark", "mark", "after"]
    assert 0 <= records[0].at <= records[-1].at <= time.monotonic() - began_s + 1e-6


def test_a_record_is_in_the_file_as_soon_as_it_was_noted(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "one.jsonl", time.monotonic())
    recorder.note("asked", "factory:f1", ask="f1/1", message={"jobId": "j1", "waitS": None})
    (record,) = records_of([tmp_path / "one.jsonl"])
    assert (record.kind, record.who) == ("asked", "factory:f1")
    assert record.data == {"ask": "f1/1", "message": {"jobId": "j1", "waitS": None}}
    recorder.close()


def test_a_process_that_begins_again_goes_on_in_the_same_file(tmp_path: Path) -> None:
    began_s = time.monotonic()
    for life in (1, 2):
        recorder = Recorder(tmp_path / "one.jsonl", began_s)
        recorder.note("up", "factory:f1", life=life)
        recorder.close()
    assert [record.data["life"] for record in gathered(tmp_path).of("up")] == [1, 2]


def test_the_parts_come_together_in_the_order_of_their_times(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", mark(0.5, "b"), mark(2.0, "b"), mark(2.5, "b"))
    write(tmp_path / "a.jsonl", mark(1.0, "a"), mark(2.25, "a"), mark(9.0, "a"))
    write(tmp_path / "c.jsonl")
    write(tmp_path / "unlike.txt", mark(3.0, "no part"))
    found = gathered(tmp_path)
    assert [(record.at, record.who) for record in found.records] == [
        (0.5, "b"), (1.0, "a"), (2.0, "b"), (2.25, "a"), (2.5, "b"), (9.0, "a"),
    ]  # fmt: skip
    assert found.documents == {}


def test_records_of_the_same_moment_stay_in_the_order_of_their_file(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", *(mark(1.0, number=number) for number in range(50)))
    assert [record.data["number"] for record in gathered(tmp_path).records] == list(range(50))


def test_a_gathered_history_is_the_same_after_it_was_saved(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "one.jsonl", time.monotonic())
    recorder.note("tree", "factory:f1", text="lines\nand\r\nmore\u2028of\x0bthem", number=1.5, nothing=None)
    recorder.close()
    found = gathered(tmp_path)
    found.save(tmp_path / "saved")
    assert History.load(tmp_path / "saved").records == found.records
    assert found.records[0].data["text"] == "lines\nand\r\nmore\u2028of\x0bthem"
