"""What the fleet saved of a job in its source goes when that ended long ago, and of no other."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from factory.link.port import Unanswered
from factory.ref_sweeper import RefSweeper
from factory.workspace.workspaces import Workspaces
from schemas.messages import ENDED_MAX
from tests.support.terms import git, make_repo, refs
from tests.support.trees import of_repo, saved, write

pytestmark = pytest.mark.xdist_group("git")
DAY_S = 86400.0


@pytest.fixture
def spaces(tmp_path: Path) -> Workspaces:
    return Workspaces(tmp_path / "one", {})


class Coordinator:
    """Knows which jobs ended, and how long ago."""

    def __init__(self, **ended_s: float) -> None:
        self.ended_s = ended_s
        self.asked: list[int] = []
        self.silent = False

    async def ended_jobs(self, job_ids: Sequence[str], for_s: float) -> list[str]:
        if self.silent:
            raise Unanswered("nobody")
        self.asked.append(len(job_ids))
        return [job_id for job_id in job_ids if self.ended_s.get(job_id, -1.0) >= for_s]


async def used(spaces: Workspaces, folder: Path) -> Path:
    """A source in which three jobs saved work, and somebody else has refs of their own."""
    repo = make_repo(folder / "repo")
    for job_id in ("old", "young", "running"):
        tree = await spaces.prepare(of_repo(repo, job_id=job_id))
        write(tree, f"{job_id}.txt")
        await saved(spaces, tree)
    for name in ("refs/gigafactory/another-fleets/1", "refs/gigafactory/notes", "refs/heads/fleet/old/1"):
        git(repo, "update-ref", name, "HEAD")
    return repo


async def test_only_refs_of_jobs_that_ended_long_ago_are_removed(spaces: Workspaces, tmp_path: Path) -> None:
    repo = await used(spaces, tmp_path)
    before = refs(repo)
    known = Coordinator(old=31 * DAY_S, young=29 * DAY_S)
    assert await RefSweeper(spaces, known.ended_jobs, 30 * DAY_S).sweep() == 1
    assert before.keys() - refs(repo).keys() == {"refs/gigafactory/old/1"}


async def test_a_coordinator_or_a_source_that_is_away_costs_nothing(spaces: Workspaces, tmp_path: Path) -> None:
    repo = await used(spaces, tmp_path)
    known = Coordinator(old=31 * DAY_S)
    sweeper = RefSweeper(spaces, known.ended_jobs, 30 * DAY_S)
    known.silent = True
    assert await sweeper.sweep() == 0
    known.silent = False
    away = repo.rename(tmp_path / "away")
    assert await sweeper.sweep() == 0
    away.rename(repo)
    assert await sweeper.sweep() == 1


async def test_many_jobs_are_asked_for_in_parts(spaces: Workspaces, tmp_path: Path) -> None:
    repo = await used(spaces, tmp_path)
    head = git(repo, "rev-parse", "HEAD")
    many = "".join(f"create refs/gigafactory/many{number}/1 {head}\n" for number in range(2 * ENDED_MAX))
    update_refs(repo, many)
    known = Coordinator(**{f"many{number}": 40 * DAY_S for number in range(2 * ENDED_MAX)})
    assert await RefSweeper(spaces, known.ended_jobs, 30 * DAY_S).sweep() == 2 * ENDED_MAX
    assert max(known.asked) == ENDED_MAX
    assert not [name for name in refs(repo) if "many" in name]


def update_refs(repo: Path, orders: str) -> None:
    subprocess.run(["git", "update-ref", "--stdin"], cwd=repo, input=orders.encode(), check=True)
