"""SIGKILL to a factory: its engine dies with it, another factory goes on from the checkpoint, nothing is done twice."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.real_fleet import WITHIN_S, RealFleet, real_fleet
from tests.support.service import until

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(240)]

STEPS = """
mkdir -p steps
for step in 1 2 3 4 5 6; do
  test -e steps/$step && continue
  echo "$GIGAFACTORY_EPOCH" > steps/$step
  echo $step >> "$OUT/done"
  while [ $step = 3 ] && [ ! -e "$OUT/go" ]; do echo beat >> "$OUT/beats"; sleep 0.05; done
done
"""
STUBBORN_DAEMON = """
(trap '' TERM; setsid sh -c 'while :; do echo beat >> "$0/beats"; sleep 0.05; done' "$OUT") > /dev/null 2>&1 &
"""


def three_steps_are_saved(fleet: RealFleet, job_id: str) -> bool:
    saved = fleet.job(job_id)["checkpoint"]
    return saved is not None and "steps/3" in fleet.files(saved["commit"])


def test_another_factory_goes_on_from_the_checkpoint_and_no_step_is_done_twice(tmp_path: Path) -> None:
    with real_fleet(tmp_path, "f1", "f2") as fleet:
        job_id = fleet.submit(STUBBORN_DAEMON + STEPS)
        until(lambda: three_steps_are_saved(fleet, job_id), WITHIN_S, "a checkpoint of three steps")
        killed = fleet.local.factories[fleet.holder(job_id)]
        assert fleet.engines(job_id)

        killed.signal(signal.SIGKILL)
        until(lambda: not fleet.engines(job_id), WITHIN_S, "the death of the engine and of its daemon")
        beats = fleet.saw("beats")
        (fleet.out / "go").touch()

        job = fleet.until_stage(job_id, "shipped")
        assert job["lastFactoryId"] != killed.name
        assert fleet.ends(job_id) == [("reaped", 1), ("reported", 2)]
        assert fleet.cause(job_id, 1) == "vanished", (
            "the broker told of it, so that nobody waited for the lease to run out"
        )
        assert fleet.saw("done") == ["1", "2", "3", "4", "5", "6"]
        assert fleet.files(job["result"]["commit"]) >= {f"steps/{step}" for step in range(1, 7)}
        assert fleet.files(fleet.ref(job_id, 1)) & {"steps/4", "steps/5", "steps/6"} == set()
        assert len(fleet.saw("beats")) >= len(beats)  # the successor's own daemon beats too, but not the first one's
        until(lambda: not fleet.engines(job_id), WITHIN_S, "the end of what the successor left behind")


def test_the_killed_factory_starts_again_in_a_new_session_and_its_tree_is_kept(tmp_path: Path) -> None:
    with real_fleet(tmp_path, "f1") as fleet:
        job_id = fleet.submit(STEPS)
        until(lambda: three_steps_are_saved(fleet, job_id), WITHIN_S, "a checkpoint of three steps")
        killed = fleet.local.factories["f1"]
        killed.signal(signal.SIGKILL)
        killed.wait(WITHIN_S)
        (fleet.out / "go").touch()
        killed.start()
        fleet.until_stage(job_id, "shipped")
        assert fleet.ends(job_id)[0] == ("reaped", 1)
        assert fleet.saw("done") == ["1", "2", "3", "4", "5", "6"]
        kept = fleet.quarantine("f1") / job_id / "1" / "tree"
        assert (kept / "steps" / "3").exists()
        assert (fleet.data / "factories" / "f1" / "session-number").read_text() == "2\n"
