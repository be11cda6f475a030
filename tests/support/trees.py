"""What tests do in the tree of a term, and see in the repository that it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factory.ports import Saved, Worktree
from factory.workspace.workspaces import Workspaces
from schemas.messages import Grant
from tests.support.terms import checkpoint, git, grant, make_repo


def of_repo(repo: Path | str, lease_epoch: int = 1, job_id: str = "job1", **fields: Any) -> Grant:
    return grant(job_id, lease_epoch=lease_epoch, repo=str(repo), **fields)


def resumed(repo: Path | str, lease_epoch: int, saved: Saved) -> Grant:
    """The next term, from what the one before it saved."""
    return of_repo(repo, lease_epoch, checkpoint=checkpoint(saved.ref, saved.commit))


def write(tree: Worktree, name: str = "new.txt", text: str = "work\n") -> None:
    (tree.path / name).parent.mkdir(parents=True, exist_ok=True)
    (tree.path / name).write_text(text)


def commit(where: Path, message: str = "words", *, name: str = "new.txt", text: str = "work\n") -> str:
    """As an engine would; the new commit's id."""
    (where / name).parent.mkdir(parents=True, exist_ok=True)
    (where / name).write_text(text)
    git(where, "add", "--all")
    git(where, "commit", "--quiet", "--message", message)
    return git(where, "rev-parse", "HEAD")


async def saved(spaces: Workspaces, tree: Worktree, message: str = "checkpoint") -> Saved:
    done = await spaces.save(tree, message)
    assert done is not None, "there was nothing new"
    return done


def with_library(repo: Path, folder: Path) -> Path:
    """Commits a submodule `lib` to it; gives the repository of that."""
    library = make_repo(folder / "repos" / "library")
    git(repo, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "lib")
    git(repo, "commit", "--quiet", "--message", "with a library")
    return library


def files_of(repo: Path, commit_id: str) -> set[str]:
    return set(git(repo, "ls-tree", "-r", "-z", "--name-only", commit_id).strip("\0").split("\0"))


def has(repo: Path, commit_id: str) -> bool:
    """Whether some ref of the repository reaches it."""
    names = git(repo, "for-each-ref", "--contains", commit_id, "--format=%(refname)")
    return bool(names)
