"""What becomes of work trees is noted as git itself sees it, so that a factory that fools itself is seen. Real git."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chaos.checkers.registry import CHECKERS
from chaos.history import History
from chaos.live.factory import FactorySpec, NotedTrees
from factory.ports import WorkspaceError, Worktree
from factory.workspace.workspaces import Workspaces
from schemas.messages import Grant
from tests.support.terms import git, grant, make_repo, refs

pytestmark = pytest.mark.xdist_group("processes")

FILES = {"README.md": "hello\n", ".gitignore": "*.log\n"}
LIFE = 7


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo", FILES)


class Noted:
    """The trees of a factory, and what was noted of them."""

    def __init__(self, root: Path) -> None:
        spec = FactorySpec(
            factory_id="f1", life=LIFE, data="", url="", token_file="", bus_url="", bus_seed_file="", capabilities=(),
            seats=1, long_poll_s=1.0, checkpoint_every_s=1.0, record="", began_s=0.0,
        )  # fmt: skip
        self.history = History()
        self.trees = NotedTrees(root, {}, spec=spec, note=self._note)

    def _note(self, kind: str, who: str, **data: Any) -> None:
        self.history.note(0.0, kind, who, **data)

    def last(self) -> dict[str, Any]:
        """What the last record says beyond whose it is, which is checked here."""
        record = self.history.records[-1]
        assert (record.kind, record.who) == ("tree", "factory:f1")
        data = dict(record.data)
        assert (data.pop("life"), data.pop("jobId"), data.pop("leaseEpoch")) == (LIFE, "job1", 1)
        return data

    def all(self) -> list[str]:
        return [record.data["does"] for record in self.history.records]


@pytest.fixture
def noted(tmp_path: Path) -> Noted:
    return Noted(tmp_path / "data")


@pytest.fixture
def believing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The factory takes everything for saved, as one with a mistake in it might."""

    async def yes(_self: Workspaces, _tree: Worktree) -> bool:
        return True

    monkeypatch.setattr(Workspaces, "is_saved", yes)


def of_repo(repo: Path) -> Grant:
    return grant(repo=str(repo))


def work(tree: Worktree, name: str = "new.txt", text: str = "work\n") -> None:
    (tree.path / name).write_text(text)


def move_away(repo: Path) -> None:
    repo.rename(repo.with_name("away"))


def commit(tree: Worktree) -> str:
    git(tree.path, "add", "--all")
    git(tree.path, "commit", "--quiet", "--message", "the engine's own words")
    return git(tree.path, "rev-parse", "HEAD")


async def test_the_whole_life_of_a_tree_is_noted_with_what_git_says(noted: Noted, repo: Path) -> None:
    tree = await noted.trees.prepare(of_repo(repo))
    assert noted.last() == {"does": "made", "base": git(repo, "rev-parse", "HEAD")}
    work(tree)
    saved = await noted.trees.save(tree, "checkpoint")
    assert saved is not None
    ref = "refs/gigafactory/job1/1"
    assert noted.last() == {"does": "pushed", "ref": ref, "commit": git(repo, "rev-parse", f"{ref}^1"), "local": False}
    branch = await noted.trees.publish(tree, saved.commit)
    assert noted.last() == {"does": "published", "branch": branch, "commit": refs(repo)[f"refs/heads/{branch}"]}
    assert await noted.trees.clean_up(tree)
    assert noted.last() == {"does": "deleted", "clean": True, "pushed": True}
    assert noted.all() == ["made", "pushed", "published", "deleted"]


async def test_a_tree_in_which_nothing_was_done_is_clean_and_pushed(noted: Noted, repo: Path) -> None:
    assert await noted.trees.clean_up(await noted.trees.prepare(of_repo(repo)))
    assert noted.last() == {"does": "deleted", "clean": True, "pushed": True}


async def test_what_is_not_done_is_not_noted(noted: Noted, repo: Path) -> None:
    with pytest.raises(WorkspaceError):
        await noted.trees.prepare(grant(repo=str(repo), ref="no-such-ref"))
    assert noted.all() == []
    tree = await noted.trees.prepare(of_repo(repo))
    assert await noted.trees.save(tree, "nothing yet") is None
    work(tree)
    assert not await noted.trees.clean_up(tree), "there is work in it that is not saved"
    assert (tree.path / "new.txt").exists()
    assert noted.all() == ["made"]


async def test_a_look_before_the_clean_up_does_not_change_what_is_in_the_tree(noted: Noted, repo: Path) -> None:
    tree = await noted.trees.prepare(of_repo(repo))
    work(tree)
    work(tree, "README.md", "changed\n")
    assert not await noted.trees.clean_up(tree)
    assert (await noted.trees.save(tree, "checkpoint")) is not None
    files = git(repo, "ls-tree", "-r", "--name-only", "refs/gigafactory/job1/1").splitlines()
    assert sorted(files) == [".gitignore", "README.md", "new.txt"]
    assert git(repo, "show", "refs/gigafactory/job1/1:README.md") == "changed"
    assert await noted.trees.clean_up(tree)
    assert noted.last() == {"does": "deleted", "clean": True, "pushed": True}


async def test_a_tree_in_quarantine_is_noted_and_kept(noted: Noted, repo: Path) -> None:
    tree = await noted.trees.prepare(of_repo(repo))
    work(tree)
    kept = await noted.trees.quarantine(tree, "a test")
    assert noted.last() == {"does": "quarantined"}
    assert kept is not None
    assert (kept / "new.txt").read_text() == "work\n"


async def test_a_tree_without_a_repository_is_put_by_and_its_work_noted_as_lying_here(noted: Noted) -> None:
    tree = await noted.trees.prepare(grant())
    work(tree)
    assert await noted.trees.save(tree, "checkpoint") is not None
    assert noted.last()["local"] is True
    assert await noted.trees.publish(tree, "a" * 40) is None
    assert await noted.trees.clean_up(tree)
    assert noted.all() == ["made", "pushed"], "nothing of it was deleted"
    assert [(path / "tree" / "new.txt").read_text() for path in noted.trees.finished()] == ["work\n"]


# -- a factory that deletes what is not saved --


async def a_new_file(tree: Worktree) -> None:
    work(tree)


async def a_new_file_that_the_engine_staged(tree: Worktree) -> None:
    work(tree)
    git(tree.path, "add", "new.txt")


async def an_edit(tree: Worktree) -> None:
    work(tree, "README.md", "changed\n")


async def a_removal(tree: Worktree) -> None:
    (tree.path / "README.md").unlink()


async def a_mode(tree: Worktree) -> None:
    (tree.path / "README.md").chmod(0o755)


async def an_empty_file(tree: Worktree) -> None:
    work(tree, text="")


UNSAVED = [a_new_file, a_new_file_that_the_engine_staged, an_edit, a_removal, a_mode, an_empty_file]


@pytest.mark.parametrize("change", UNSAVED)
@pytest.mark.usefixtures("believing")
async def test_work_that_was_deleted_unsaved_is_noted_as_not_clean(noted: Noted, repo: Path, change: Any) -> None:
    tree = await noted.trees.prepare(of_repo(repo))
    await change(tree)
    assert await noted.trees.clean_up(tree)
    assert not tree.path.exists()
    assert noted.last() == {"does": "deleted", "clean": False, "pushed": True}


@pytest.mark.parametrize("change", UNSAVED)
@pytest.mark.usefixtures("believing")
async def test_work_that_was_deleted_after_the_last_checkpoint_is_noted_as_not_clean(
    noted: Noted, repo: Path, change: Any
) -> None:
    tree = await noted.trees.prepare(of_repo(repo))
    work(tree, "saved.txt")
    assert await noted.trees.save(tree, "checkpoint") is not None
    await change(tree)
    assert await noted.trees.clean_up(tree)
    assert noted.last() == {"does": "deleted", "clean": False, "pushed": True}


@pytest.mark.usefixtures("believing")
async def test_a_commit_that_was_deleted_unpushed_is_noted_though_its_content_was_saved(
    noted: Noted, repo: Path
) -> None:
    tree = await noted.trees.prepare(of_repo(repo))
    work(tree)
    assert await noted.trees.save(tree, "checkpoint") is not None
    commit(tree)
    assert await noted.trees.clean_up(tree)
    assert noted.last() == {"does": "deleted", "clean": True, "pushed": False}


@pytest.mark.usefixtures("believing")
async def test_a_commit_that_was_never_saved_at_all_is_noted_as_neither(noted: Noted, repo: Path) -> None:
    tree = await noted.trees.prepare(of_repo(repo))
    work(tree)
    commit(tree)
    assert await noted.trees.clean_up(tree)
    assert noted.last() == {"does": "deleted", "clean": False, "pushed": False}


@pytest.mark.usefixtures("believing")
async def test_a_push_that_the_remote_has_lost_is_seen_though_the_factory_remembers_it(
    noted: Noted, repo: Path
) -> None:
    tree = await noted.trees.prepare(of_repo(repo))
    work(tree)
    saved = await noted.trees.save(tree, "checkpoint")
    assert saved is not None
    git(repo, "update-ref", "-d", saved.ref)
    assert await noted.trees.clean_up(tree)
    assert noted.last()["clean"] is False


@pytest.mark.usefixtures("believing")
async def test_a_remote_that_cannot_be_asked_vouches_for_nothing(noted: Noted, repo: Path) -> None:
    tree = await noted.trees.prepare(of_repo(repo))
    move_away(repo)
    assert await noted.trees.clean_up(tree)
    assert noted.last() == {"does": "deleted", "clean": False, "pushed": False}


async def test_an_engines_own_commits_that_were_saved_are_clean_and_pushed(noted: Noted, repo: Path) -> None:
    tree = await noted.trees.prepare(of_repo(repo))
    for name in ("one", "two"):
        work(tree, name)
        commit(tree)
        assert await noted.trees.save(tree, "checkpoint") is not None
    assert await noted.trees.clean_up(tree)
    assert noted.last() == {"does": "deleted", "clean": True, "pushed": True}


async def test_what_git_ignores_is_no_part_of_the_work(noted: Noted, repo: Path) -> None:
    tree = await noted.trees.prepare(of_repo(repo))
    work(tree, "noise.log", "ignored\n")
    assert await noted.trees.clean_up(tree)
    assert noted.last() == {"does": "deleted", "clean": True, "pushed": True}


@pytest.mark.usefixtures("believing")
async def test_the_checker_of_kept_work_sees_by_these_notes_that_work_was_deleted(noted: Noted, repo: Path) -> None:
    tree = await noted.trees.prepare(of_repo(repo))
    work(tree)
    assert await noted.trees.clean_up(tree)
    assert [one.shown_by[-1].data["does"] for one in CHECKERS["work_kept"](noted.history)] == ["deleted"]
