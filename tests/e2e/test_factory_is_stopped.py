"""A factory that is asked to end saves and hands back what it holds; a second process of it is refused, or replaces it
as a newer session does."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from factory.main import EXIT_FENCED
from tests.support.real_fleet import WITHIN_S, RealFleet, real_fleet
from tests.support.service import until

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(240)]

WAITS = """
test -e saved && { echo resumed >> "$OUT/seen"; exit 0; }
echo saved > saved
trap 'echo asked >> "$OUT/seen"; exit 1' TERM
echo running >> "$OUT/seen"
while [ ! -e "$OUT/go" ]; do sleep 0.05; done
"""


def running(fleet: RealFleet, script: str = WAITS) -> str:
    """A job whose engine is at work."""
    job_id = fleet.submit(script)
    fleet.until_stage(job_id, "building")
    until(lambda: "running" in fleet.saw("seen"), WITHIN_S, "the engine")
    return job_id


def draining(fleet: RealFleet, factory_id: str) -> bool:
    rows = fleet.client.get("/api/fleet/factories")["factories"]
    return any(row["id"] == factory_id and row["draining"] for row in rows)


def exited(process: subprocess.Popen[bytes]) -> int:
    return process.wait(WITHIN_S)


def said(data: Path) -> str:
    return (data / "said").read_text(errors="replace")


def test_on_sigterm_a_job_that_outlasts_the_grace_is_saved_released_and_resumed_elsewhere(tmp_path: Path) -> None:
    with real_fleet(tmp_path, "f1", "f2") as fleet:
        for child in fleet.local.factories.values():
            child.signal(signal.SIGTERM)
            child.wait(WITHIN_S)
            assert child.exit_code == 0
        data = fleet.data / "factories" / "f1"
        short = fleet.another_process("f1", data, "--drain-grace", "0.5")
        job_id = running(fleet)
        short.send_signal(signal.SIGTERM)
        assert exited(short) == 0, said(data)
        assert "asked" in fleet.saw("seen")
        job = fleet.job(job_id)
        assert (job["stage"], job["holder"], job["retries"]["used"]) == ("queued", None, 0)
        assert "saved" in fleet.files(job["checkpoint"]["commit"])
        assert fleet.ends(job_id) == [("released", 1)]
        fleet.local.factories["f2"].start()
        assert fleet.until_stage(job_id, "shipped")["lastFactoryId"] == "f2"
        assert fleet.saw("seen") == ["running", "asked", "resumed"]


def test_on_sigterm_a_job_that_ends_within_the_grace_is_finished_and_nothing_new_is_begun(tmp_path: Path) -> None:
    with real_fleet(tmp_path, "f1") as fleet:
        job_id = running(fleet)
        child = fleet.local.factories["f1"]
        child.signal(signal.SIGTERM)
        until(lambda: draining(fleet, "f1"), WITHIN_S, "the factory's word that it drains")
        waiting = fleet.submit("true", key="two")
        (fleet.out / "go").touch()
        child.wait(WITHIN_S)
        assert child.exit_code == 0
        assert fleet.until_stage(job_id, "shipped")["lastFactoryId"] == "f1"
        assert fleet.job(waiting)["attempt"] == 0
        work = fleet.data / "factories" / "f1" / "work"
        assert not list(work.glob("trees/*/*"))
        assert not list(work.glob("quarantine/*/*")), "a tree that is pushed whole is not kept"


def test_a_factory_that_waits_for_its_coordinator_ends_on_sigterm_all_the_same(tmp_path: Path) -> None:
    with real_fleet(tmp_path, "f1") as fleet:
        child = fleet.local.factories["f1"]
        child.signal(signal.SIGTERM)
        child.wait(WITHIN_S)
        fleet.local.coordinator.signal(signal.SIGKILL)
        fleet.local.coordinator.wait(WITHIN_S)
        waits = fleet.another_process("f1", tmp_path / "waits")
        until(lambda: "trying again" in said(tmp_path / "waits"), WITHIN_S, "a hello that nobody answers")
        waits.send_signal(signal.SIGTERM)
        assert exited(waits) == 0, said(tmp_path / "waits")


def test_a_second_process_on_the_same_data_is_told_the_pid_of_the_first(tmp_path: Path) -> None:
    with real_fleet(tmp_path, "f1") as fleet:
        job_id = running(fleet)
        first = fleet.local.factories["f1"]
        data = fleet.data / "factories" / "f1"
        assert exited(fleet.another_process("f1", data)) == 1
        assert f"is held by process {first.pid}" in said(data)
        (fleet.out / "go").touch()
        fleet.until_stage(job_id, "shipped")
        assert fleet.ends(job_id) == [("reported", 1)]
        assert first.exit_code is None


def test_a_newer_session_of_the_same_factory_fences_the_older_whose_engine_dies_and_whose_tree_is_kept(
    tmp_path: Path,
) -> None:
    with real_fleet(tmp_path, "f1") as fleet:
        job_id = running(fleet)
        older = fleet.local.factories["f1"]
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "session-number").write_text("41\n")
        newer = fleet.another_process("f1", elsewhere)
        older.wait(WITHIN_S)
        assert older.exit_code == EXIT_FENCED, older.last_words()
        (fleet.out / "go").touch()
        job = fleet.until_stage(job_id, "shipped")
        assert (job["leaseEpoch"], job["attempt"]) == (2, 2)
        assert fleet.ends(job_id) == [("reaped", 1), ("reported", 2)]
        assert "asked" not in fleet.saw("seen"), "a fenced engine is killed, not asked"
        assert (fleet.quarantine("f1") / job_id / "1" / "tree" / "saved").exists()
        assert newer.poll() is None


def test_an_older_session_number_is_refused_and_the_living_session_goes_on(tmp_path: Path) -> None:
    with real_fleet(tmp_path, "f1") as fleet:
        job_id = running(fleet)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "session-number").write_text("0\n")
        assert exited(fleet.another_process("f1", elsewhere)) == EXIT_FENCED
        lost = tmp_path / "lost"
        assert exited(fleet.another_process("f1", lost)) == EXIT_FENCED
        assert "--takeover" in said(lost)
        (fleet.out / "go").touch()
        fleet.until_stage(job_id, "shipped")
        assert fleet.ends(job_id) == [("reported", 1)]
