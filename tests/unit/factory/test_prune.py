"""What finished terms left goes when it is old, over, acknowledged and saved, and nothing else does. Real git."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from factory.prune import PASS_MAX, Pruner
from factory.workspace.workspaces import Workspaces
from runtime.settings import Timers
from tests.support.terms import grant

pytestmark = pytest.mark.xdist_group("git")

NOW = datetime(2030, 1, 8, tzinfo=UTC)
DAY_S = 24 * 3600.0


class StillClock:
    def now(self) -> datetime:
        return NOW

    def boot_s(self) -> float:
        return 0.0


class Machine:
    def __init__(self, folder: Path) -> None:
        self.terms = folder / "terms"
        self.work = folder / "work"
        self.spaces = Workspaces(self.work, {})
        self.live: set[tuple[str, int]] = set()
        self.pruner = Pruner(self.terms.parent, self.spaces, lambda *key: key in self.live, StillClock())

    def term(self, name: str, age_s: float, *, launcher: bool = False) -> None:
        folder = self.terms / name
        folder.mkdir(parents=True)
        for file in ("log", *(["launcher.json"] if launcher else [])):
            (folder / file).touch()
            aged(folder / file, age_s)
        aged(folder, age_s)

    async def finished(self, job_id: str, age_s: float) -> Path:
        tree = await self.spaces.prepare(grant(job_id))
        (tree.path / "new.txt").write_text("work\n")
        await self.spaces.save(tree, "all")
        assert await self.spaces.clean_up(tree)
        path = self.work / "finished" / job_id / "1"
        aged(path, age_s)
        return path

    def left(self) -> set[str]:
        return {path.name for path in self.terms.iterdir()}


def aged(path: Path, age_s: float) -> None:
    then = (NOW - timedelta(seconds=age_s)).timestamp()
    os.utime(path, (then, then))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_old_folders_of_terms_go_and_those_that_are_young_live_or_not_known_to_be_dead_stay(
    machine: Machine,
) -> None:
    old_s = Timers.keep_s + 1
    machine.term("old-1", old_s)
    machine.term("young-1", Timers.keep_s - 1)
    machine.term("written-1", old_s)
    aged(machine.terms / "written-1" / "log", 10.0)
    machine.term("runs-now-3", old_s)
    machine.live.add(("runs-now", 3))
    machine.term("killed-1", old_s, launcher=True)
    machine.term("no term of ours", old_s)
    assert await machine.pruner.once() == 1
    assert machine.left() == {"young-1", "written-1", "runs-now-3", "killed-1", "no term of ours"}


async def test_old_finished_trees_go_and_those_that_are_young_or_not_acknowledged_stay(machine: Machine) -> None:
    old = await machine.finished("old", Timers.keep_s + DAY_S)
    young = await machine.finished("young", Timers.keep_s - DAY_S)
    unheard = await machine.finished("unheard", Timers.keep_s + DAY_S)
    machine.live.add(("unheard", 1))
    assert await machine.pruner.once() == 1
    assert [path.exists() for path in (old, young, unheard)] == [False, True, True]


async def test_trees_in_quarantine_and_trees_of_terms_that_run_are_never_touched(machine: Machine) -> None:
    kept = await machine.spaces.quarantine(await machine.spaces.prepare(grant("kept")), "a test")
    running = await machine.spaces.prepare(grant("running"))
    assert kept is not None
    for path in (kept, running.path):
        aged(path, 100 * Timers.keep_s)
    assert await machine.pruner.once() == 0
    assert kept.exists()
    assert running.path.exists()


async def test_a_pass_is_bounded_and_a_tree_that_git_cannot_read_goes_to_quarantine(machine: Machine) -> None:
    for number in range(PASS_MAX + 5):
        machine.term(f"old-{number}", Timers.keep_s + 1)
    broken = await machine.finished("broken", Timers.keep_s + 1)
    (broken / "tree" / ".git" / "HEAD").unlink()
    aged(broken, Timers.keep_s + 1)
    assert await machine.pruner.once() == PASS_MAX + 1
    assert await machine.pruner.once() == 5
    assert not machine.left()
    assert not broken.exists()
    (kept,) = machine.spaces.quarantined()
    assert (kept / "new.txt").exists()
