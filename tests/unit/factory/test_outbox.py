"""What a holder has to say is on disk before it is said, and stays until it is acknowledged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from factory.outbox import Outbox, write_durably


def report(job_id: str, lease_epoch: int = 1) -> dict[str, object]:
    return {"jobId": job_id, "leaseEpoch": lease_epoch, "sessionId": "s1"}


def test_what_was_put_is_found_by_the_next_session(tmp_path: Path) -> None:
    Outbox(tmp_path / "outbox").put("report", report("job1"))
    Outbox(tmp_path / "outbox").put("release", report("job2", 7))
    found = Outbox(tmp_path / "outbox").pending()
    assert [(one.op, one.message["jobId"], one.message["leaseEpoch"]) for one in found] == [
        ("report", "job1", 1),
        ("release", "job2", 7),
    ]


def test_what_is_acknowledged_is_gone_and_only_that(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    first, _ = outbox.put("report", report("job1")), outbox.put("report", report("job2"))
    outbox.settled(first)
    outbox.settled(first)  # twice is once
    assert [one.message["jobId"] for one in outbox.pending()] == ["job2"]


def test_terms_of_one_job_do_not_overwrite_each_other(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for epoch in (1, 2):
        outbox.put("report", report("job1", epoch))
    assert len(outbox.pending()) == 2


def test_a_term_has_one_end_on_disk_the_last_that_was_put(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put("report", report("job1"))
    outbox.put("release", report("job1"))
    assert [one.op for one in outbox.pending()] == ["release"]


def test_a_file_that_was_being_written_when_the_factory_died_is_not_read(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put("report", report("job1"))
    (tmp_path / "job2.1.json.part").write_bytes(b'{"op": "rep')
    assert [one.message["jobId"] for one in Outbox(tmp_path).pending()] == ["job1"]
    outbox.put("report", report("job2"))  # and stands in nobody's way
    assert len(outbox.pending()) == 2


def test_a_file_that_cannot_be_replaced_keeps_its_old_content(tmp_path: Path) -> None:
    write_durably(tmp_path / "file", b"old")
    (tmp_path / "file.part").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_durably(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


KILLED_AFTER_PUT = """
import os, signal, sys
from pathlib import Path
from factory.outbox import Outbox
Outbox(Path(sys.argv[1])).put("report", {"jobId": "job1", "leaseEpoch": 1})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.xdist_group("processes")
def test_what_was_put_outlives_a_kill_right_after(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AFTER_PUT, str(tmp_path)], check=False, env={**os.environ, "PYTHONPATH": "."}
    )
    assert done.returncode == -signal.SIGKILL
    assert [one.message["jobId"] for one in Outbox(tmp_path).pending()] == ["job1"]
