"""What an engine left in a repository, read without ever asking that repository's own configuration."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from factory.git.run import GitError, git

STOPPED = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "MERGE_AUTOSTASH")
PENDING = (*STOPPED, *(f"rebase-{kind}/{name}" for kind in ("merge", "apply") for name in ("autostash", "orig-head")))
_commit_line = re.compile(rb"([0-9a-f]{40,64})\b")
_stash_entry = re.compile(rb"[0-9a-f]+ ([0-9a-f]{40,64}) [^\t]*(?:\t(.*))?")


class Refs(NamedTuple):
    """`refs`: full name -> id. `head`: the commit, None before the first. `branch`: the full name of what HEAD is, None
    where it is a commit.
    """

    refs: dict[str, str]
    head: str | None
    branch: str | None


class LinkedWorktree(NamedTuple):
    name: str
    path: Path
    index_file: Path
    head: str


async def read_refs(git_dir: Path) -> Refs:
    """Raises GitError where it is no repository, OSError where it cannot be read."""
    if not (git_dir / "HEAD").is_file():
        raise GitError(f"{git_dir} has no HEAD")
    text = (git_dir / "HEAD").read_bytes().strip()
    with tempfile.TemporaryDirectory(prefix="refs-") as folder:
        view = _view_of(git_dir, Path(folder) / "view.git")
        env = {"GIT_DIR": str(view)}  # not show-ref: one ref to what is not there would hide all others
        said = await git(view, "for-each-ref", "--format=%(objectname) %(refname)", env=env)
        head = await git(view, "rev-parse", "--verify", "--quiet", "HEAD", env=env, ok=(0, 1))
    refs = {name: commit for commit, _, name in (line.partition(" ") for line in said.splitlines())}
    return Refs(refs, head or None, os.fsdecode(text.removeprefix(b"ref: ")) if text.startswith(b"ref: ") else None)


def _view_of(git_dir: Path, view: Path) -> Path:
    """The same refs and objects under a configuration that says nothing."""
    view.mkdir()
    common = common_dir(git_dir)
    for name in ("refs", "objects", "packed-refs", "shallow"):
        (view / name).symlink_to(common.resolve() / name)
    shutil.copy(git_dir / "HEAD", view / "HEAD")
    if _is_sha256(common):
        said = "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tobjectformat = sha256\n"
        (view / "config").write_text(said)
    return view


def common_dir(git_dir: Path) -> Path:
    """Where a linked worktree has its refs and objects; of any other repository it is the same."""
    told = git_dir / "commondir"
    return git_dir / os.fsdecode(told.read_bytes().strip()) if told.is_file() else git_dir


def _is_sha256(git_dir: Path) -> bool:
    config = git_dir / "config"
    return config.is_file() and b"sha256" in config.read_bytes().lower()


def stashes(git_dir: Path) -> list[tuple[str, str]]:
    """Commit and message of each entry, the newest first."""
    log = git_dir / "logs" / "refs" / "stash"
    if not log.is_file():  # a pipe would never end
        return []
    entries = [_stash_entry.match(line) for line in reversed(log.read_bytes().splitlines())]
    return [(entry[1].decode(), os.fsdecode(entry[2] or b"")) for entry in entries if entry is not None]


def pending(git_dir: Path) -> dict[str, str]:
    """Commits that a merge or rebase which stopped half-way alone names."""
    found = {}
    for name in PENDING:
        file = git_dir / name
        if file.is_file() and (commit := _commit_line.match(file.read_bytes())):
            found[name.replace("/", "-")] = commit[1].decode()
    return found


def linked_worktrees(git_dir: Path, refs: Refs) -> Iterator[LinkedWorktree]:
    """Those that `git worktree add` made, inside the tree or elsewhere."""
    for entry in sorted((git_dir / "worktrees").glob("*")):
        if not ((entry / "gitdir").is_file() and (entry / "HEAD").is_file()):
            continue
        path = Path(os.fsdecode((entry / "gitdir").read_bytes().strip())).parent
        head: str | None = os.fsdecode((entry / "HEAD").read_bytes().strip())
        if head and head.startswith("ref: "):
            head = refs.refs.get(head.removeprefix("ref: "))
        if head:
            yield LinkedWorktree(entry.name, path, entry / "index", head)


def git_dir_of(folder: Path) -> Path | None:
    """Where the repository of a folder is, if it is the top of one."""
    there = folder / ".git"
    if there.is_dir():
        return there
    if there.is_file():
        try:
            text = os.fsdecode(there.read_bytes()).strip()
        except OSError:
            return None
        inner = (folder / text.removeprefix("gitdir:").strip()).resolve()
        return inner if inner.is_dir() else None
    return None


def module_dirs(git_dir: Path) -> Iterator[Path]:
    """The repositories of submodules, at every level, also of those that are not checked out any more."""
    for head in sorted((git_dir / "modules").rglob("HEAD")):
        if (head.parent / "objects").is_dir():
            yield head.parent


def repositories_inside(top: Path, own: set[Path]) -> Iterator[Path]:
    """Submodules and others, outermost first. `own`: linked worktrees of the tree itself, which are none."""
    for folder, names, files in os.walk(top):
        here = Path(folder)
        if here != top and (".git" in names or ".git" in files) and here.resolve() not in own and git_dir_of(here):
            yield here
        if ".git" in names:
            names.remove(".git")
