"""The branch of a finished term. Commits of its submodules go to their own remotes first, or nothing is shipped."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from factory.git.run import GitError, git
from factory.git.urls import is_folder, reach_of
from factory.workspace import lfs
from factory.workspace.leading_out import leads_out
from factory.workspace.reading import common_dir, git_dir_of, module_dirs, read_refs
from factory.workspace.term_repository import SAFE, TermRepository, push

_gitlink = re.compile(r"160000 commit ([0-9a-f]+)\t(.*)", re.DOTALL)


class Unpushed(NamedTuple):
    path: Path
    git_dir: Path
    url: str
    commit: str


async def publish(term: TermRepository, snapshot: str) -> str:
    """Raises GitError with the server's words where it does not take the branch."""
    async for inner in _unpushed(term, term.path, snapshot, term.vault):
        name = str(inner.path.relative_to(term.path))
        reach = reach_of(term.submodules.get(name, inner.url))  # not where a job may have turned it to
        if not reach.url or (name not in term.submodules and is_folder(reach.url)):
            continue  # made by the job: its commits are with the checkpoint, and what hooks are there is its own affair
        env = {**reach.env, "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((inner.git_dir / "objects").resolve())}
        try:
            await lfs.upload_of(inner.git_dir, reach.url, inner.commit, term.branch, reach.env, term.folder)
            await push(term, "--", reach.url, f"{inner.commit}:refs/heads/{term.branch}", env=env)
        except GitError as error:
            sentence = f"{name} is at {inner.commit[:12]}, which {reach.url} does not have and does not take: {error}"
            raise GitError(f"not shipped: {sentence}") from error
    await lfs.upload(term.vault, term.reach.url, snapshot, term.branch, term.reach.env, [term.base])
    spec = f"{snapshot}:refs/heads/{term.branch}"
    await push(term, "--force", "--", term.reach.url, spec, env=term.reach.env)
    return term.branch


async def _at_the_remote(term: TermRepository, name: str, git_dir: Path) -> frozenset[str]:
    """Of a submodule that was there at the start what its remote had then: remotes that a job adds prove nothing. Of
    another one what the job has of it.
    """
    if name in term.submodules:
        return term.tips_of(name)
    refs = (await read_refs(git_dir)).refs
    return frozenset(commit for ref, commit in refs.items() if ref.startswith("refs/remotes/"))


async def _module_with(top: Path, commit: str) -> Path | None:
    """The repository of a submodule that is not checked out any more."""
    outer = git_dir_of(top)
    for git_dir in module_dirs(outer) if outer is not None else ():
        argv = ("cat-file", "--batch-check")
        said = await git(git_dir, *argv, env={"GIT_DIR": str(git_dir)}, stdin=f"{commit}\n".encode())
        if not said.endswith("missing"):
            return git_dir
    return None


async def _unpushed(term: TermRepository, top: Path, commit: str, repository: Path) -> AsyncIterator[Unpushed]:
    """Submodules' commits that their remotes lack, the deepest first."""
    listed = await git(repository, "ls-tree", "-r", "-z", commit, env={"GIT_DIR": str(repository)})
    for entry in listed.split("\0"):
        link = _gitlink.fullmatch(entry)
        git_dir = git_dir_of(top / link[2]) or await _module_with(top, link[1]) if link else None
        if link is None or git_dir is None or leads_out(git_dir, term.place) is not None:
            continue
        if common_dir(git_dir) != git_dir:  # a linked worktree, whose commits are the tree's own
            continue
        async for deeper in _unpushed(term, top / link[2], link[1], git_dir):
            yield deeper
        tips = await _at_the_remote(term, str((top / link[2]).relative_to(term.path)), git_dir)
        known = "\n".join(f"^{there}" for there in tips)
        argv = (*SAFE, "rev-list", "--max-count=1", link[1], "--stdin")
        if await git(git_dir, *argv, env={"GIT_DIR": str(git_dir)}, stdin=known.encode() or b"\n"):
            url = await git(git_dir, "config", "--get", "remote.origin.url", env={"GIT_DIR": str(git_dir)}, ok=(0, 1))
            yield Unpushed(top / link[2], git_dir, url, link[1])
