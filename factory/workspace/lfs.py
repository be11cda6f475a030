"""Git LFS: the one filter that the factory lets a repository ask for, if the machine has it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from factory.git.environment import factory_env
from factory.git.run import git, run
from factory.ports import Fault, WorkspaceError
from factory.workspace.config import append_config

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


async def upload(vault: Path, url: str, commit: str, branch: str, env: Mapping[str, str]) -> None:
    """What git-lfs's own `pre-push` would do before `commit` is pushed. Raises GitError.

    It passes over refs that are no branches, so it is told of one. With GIT_DIR in its environment it would "upload" to
    a folder as remote into its own repository, so it has none.
    """
    if await is_used(vault, commit):
        told = f"x {commit} refs/heads/{branch} {'0' * len(commit)}\n".encode()
        await run(["git", "lfs", "pre-push", "origin", url], cwd=vault, env=factory_env(env), stdin=told)
