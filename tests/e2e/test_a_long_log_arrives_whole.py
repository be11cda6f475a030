"""All that a job prints reaches the coordinator, whatever broker, coordinator and factory go through meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from factory.term import SAYS
from tests.support.real_fleet import WITHIN_S, RealFleet, real_fleet
from tests.support.service import until

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(240)]

LINES = 40_000  # of 50 bytes: 2 MB
PRINTS = f"awk 'BEGIN {{ for (i = 0; i < {LINES}; i++) printf \"%049d\\n\", i }}'"
WHOLE = "".join(f"{number:049}\n" for number in range(LINES))
BUSY_S = 6


def read(fleet: RealFleet, job_id: str) -> tuple[str, bool]:
    """Everything that is there, and whether that is all."""
    text, offset = "", 0
    while True:
        page = fleet.client.get(f"/api/fleet/jobs/{job_id}/logs", epoch=1, offset=offset)
        if page["nextOffset"] == offset:
            return text, page["complete"]
        text, offset = text + page["text"], page["nextOffset"]


def is_whole(fleet: RealFleet, job_id: str) -> None:
    until(lambda: read(fleet, job_id)[1], WITHIN_S, "the end of the log")
    printed = [line for line in read(fleet, job_id)[0].splitlines(keepends=True) if not line.startswith(SAYS)]
    assert "".join(printed) == WHOLE


def test_on_a_machine_that_has_other_work(tmp_path: Path) -> None:
    burn = f"import time\nend = time.monotonic() + {BUSY_S}\nwhile time.monotonic() < end: pass"
    with real_fleet(tmp_path, "f1") as fleet:
        others = [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(6)]
        try:
            job_id = fleet.submit(PRINTS)
            fleet.until_stage(job_id, "shipped")
            is_whole(fleet, job_id)
        finally:
            for other in others:
                other.kill()
                other.wait()


def test_while_the_broker_is_killed_and_comes_back(tmp_path: Path) -> None:
    with real_fleet(tmp_path, "f1") as fleet:
        job_id = fleet.submit(f"sleep 0.5\n{PRINTS}")
        fleet.until_stage(job_id, "building")
        fleet.local.broker.kill()
        time.sleep(1)
        fleet.local.broker.start()
        fleet.until_stage(job_id, "shipped")
        is_whole(fleet, job_id)


def test_while_the_broker_stands_still_around_the_report(tmp_path: Path) -> None:
    with real_fleet(tmp_path, "f1") as fleet:
        job_id = fleet.submit(f'{PRINTS}\necho printed >> "$OUT/seen"')
        fleet.until_stage(job_id, "building")
        os.kill(fleet.local.broker.pid, signal.SIGSTOP)
        until(lambda: fleet.saw("seen"), WITHIN_S, "the end of the engine")
        time.sleep(6)
        os.kill(fleet.local.broker.pid, signal.SIGCONT)
        fleet.until_stage(job_id, "shipped")
        is_whole(fleet, job_id)


def test_while_the_coordinator_stands_still_around_the_report(tmp_path: Path) -> None:
    with real_fleet(tmp_path, "f1") as fleet:
        job_id = fleet.submit(f'{PRINTS}\necho printed >> "$OUT/seen"')
        until(lambda: fleet.saw("seen"), WITHIN_S, "the end of the engine")
        fleet.local.coordinator.signal(signal.SIGSTOP)
        time.sleep(3)
        fleet.local.coordinator.signal(signal.SIGCONT)
        fleet.until_stage(job_id, "shipped")
        is_whole(fleet, job_id)


def test_what_a_killed_factory_had_not_brought_over_is_brought_by_its_next_process(tmp_path: Path) -> None:
    with real_fleet(tmp_path, "f1") as fleet:
        first, rest = f"{PRINTS} | head -n 100", f"{PRINTS} | tail -n +101"
        only_once = "test $GIGAFACTORY_EPOCH = 1 || exit 0"
        job_id = fleet.submit(f'{only_once}\n{first}\nsleep 1\n{rest}\necho printed >> "$OUT/seen"\nsleep 60')
        until(lambda: read(fleet, job_id)[0], WITHIN_S, "the beginning of the log")
        fleet.local.coordinator.signal(signal.SIGSTOP)
        until(lambda: fleet.saw("seen"), WITHIN_S, "the end of the printing")
        child = fleet.local.factories["f1"]
        child.signal(signal.SIGKILL)
        child.wait(WITHIN_S)
        fleet.local.coordinator.signal(signal.SIGCONT)
        until(lambda: fleet.job(job_id)["stage"] == "queued", WITHIN_S, "the end of the term")
        assert not read(fleet, job_id)[1], "it says that its end is missing"
        child.start()
        is_whole(fleet, job_id)
