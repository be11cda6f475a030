"""Git LFS: the one filter that the factory lets a repository ask for, if the machine has it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from factory.git.config import append_config
from factory.git.environment import factory_env
from factory.git.run import git, run
from factory.ports import Fault, WorkspaceError

FILTER = (
    ("filter", "lfs", "clean", "git-lfs clean -- %f"),
    ("filter", "lfs", "smudge", "git-lfs smudge -- %f"),
    ("filter", "lfs", "process", "git-lfs filter-process"),
    ("filter", "lfs", "required", "true"),
)


async def is_used(repository: Path, commit: str) -> bool:
    argv = ("grep", "--files-with-matches", "-E", "filter=lfs", commit, "--", ".gitattributes", "**/.gitattributes")
    return bool(await git(repository, *argv, env={"GIT_DIR": str(repository)}, ok=(0, 1)))


async def use_filter(vault: Path) -> None:
    """Where a job has begun to use LFS by itself; without git-lfs on the machine there is no filter to use."""
    has = await git(vault, "config", "--get", "filter.lfs.clean", env={"GIT_DIR": str(vault)}, ok=(0, 1))
    if not has and shutil.which("git-lfs"):
        append_config(vault / "config", FILTER)


async def install(tree: Path, vault: Path, url: str) -> None:
    """Its filters, of both repositories. The hook that uploads is git-lfs's own to set when an engine wants it."""
    if not shutil.which("git-lfs"):
        raise WorkspaceError(f"{url} uses Git LFS, and this machine has no git-lfs", Fault.MACHINE)
    append_config(tree / ".git" / "config", FILTER)
    append_config(vault / "config", FILTER)


async def upload(
    repository: Path, url: str, commit: str, branch: str, env: Mapping[str, str], known: Sequence[str]
) -> None:
    """What git-lfs's own `pre-push` would do before `commit` is pushed, for it and all that it reaches and `known` does
    not. Where the objects are, the repository's own configuration says: what `-c` says would count for a folder as
    remote too. Raises GitError.

    It passes over refs that are no branches, so it is told of one. With GIT_DIR in its environment it would "upload" to
    a folder as remote into its own repository, so it has none.
    """
    if await is_used(repository, commit) or await _was_used(repository, commit, known):
        told = f"x {commit} refs/heads/{branch} {'0' * len(commit)}\n".encode()
        await run(["git", "lfs", "pre-push", "origin", url], cwd=repository, env=factory_env(env), stdin=told)


async def upload_of(inner: Path, url: str, commit: str, branch: str, env: Mapping[str, str], folder: Path) -> None:
    """The same for the repository of a submodule, by one of our own that borrows its objects. `folder`: for that."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="lfs-", ignore_cleanup_errors=True) as made:
        side = Path(made)
        await git(side, "init", "--quiet", "--bare", "--template=", f"--object-format={_kind(commit)}", str(side))
        (side / "objects" / "info").mkdir(parents=True, exist_ok=True)
        (side / "objects" / "info" / "alternates").write_bytes(os.fsencode((inner / "objects").resolve()) + b"\n")
        storage = str((inner / "lfs").resolve())
        config = (
            ("lfs", None, "storage", storage),
            ("lfs", None, "locksverify", "false"),
            ("remote", "origin", "url", url),
        )
        append_config(side / "config", config)
        await upload(side, url, commit, branch, env, ())


def _kind(commit: str) -> str:
    return "sha256" if len(commit) == 64 else "sha1"


async def _was_used(repository: Path, commit: str, known: Sequence[str]) -> bool:
    """By a commit in between that has it no more."""
    argv = (
        "log",
        "--full-history",
        "--max-count=1",
        "--format=%H",
        "-G",
        "filter=lfs",
        commit,
        *(f"^{one}" for one in known),
    )
    paths = ("--", ".gitattributes", ":(glob)**/.gitattributes")
    return bool(await git(repository, *argv, *paths, env={"GIT_DIR": str(repository)}))
