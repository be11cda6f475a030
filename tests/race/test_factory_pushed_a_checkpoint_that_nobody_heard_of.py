"""A holder pushes a second checkpoint over the first and dies before it says so: the coordinator knows only the first,
which the next holder must still find."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.workspace.workspaces import Workspaces
from tests.support.terms import checkpoint, git, grant, make_repo

pytestmark = pytest.mark.xdist_group("processes")


async def test_an_earlier_checkpoint_stays_reachable_and_the_branch_shows_none_of_it(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo", {"README.md": "hello\n"})
    dying, next_one = Workspaces(tmp_path / "one", {}), Workspaces(tmp_path / "two", {})
    tree = await dying.prepare(grant(lease_epoch=1, repo=str(repo)))
    commits = []
    for number in range(3):
        (tree.path / "step").write_text(f"{number}\n")
        saved = await dying.save(tree, "checkpoint")
        assert saved is not None
        commits.append(saved.commit)
    for epoch, commit in enumerate(commits, start=2):
        told = checkpoint(commit=commit, ref=tree.ref)
        resumed = await next_one.prepare(grant(lease_epoch=epoch, repo=str(repo), checkpoint=told))
        assert (resumed.path / "step").read_text() == f"{epoch - 2}\n"
    branch = await dying.publish(tree, commits[-1])
    assert branch is not None
    assert git(repo, "rev-list", "--count", f"{tree.base}..{branch}") == "1"
