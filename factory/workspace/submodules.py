"""Submodules of a fresh tree, each made from a cache of its own URL, at every level."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from factory.git.environment import factory_env
from factory.git.run import GitError, Progress, git, run
from factory.git.urls import Reach, is_folder, reach_of
from factory.ports import Fault, WorkspaceError
from factory.workspace.bundles import unbundle
from factory.workspace.cache import REFSPECS, Caches
from factory.workspace.leading_out import as_it_is
from factory.workspace.reading import git_dir_of, read_refs
from factory.workspace.remote import list_refs
from factory.workspace.term_repository import SAFE, TermRepository


class Submodule(NamedTuple):
    name: str
    path: str
    commit: str


class Submodules:
    """`saved`: what bundles beside a checkpoint have, for commits that no remote has."""

    def __init__(
        self, term: TermRepository, caches: Caches, tmp: Path, saved: Sequence[dict[str, Any]], progress: Progress
    ) -> None:
        self._term = term
        self._caches = caches
        self._tmp = tmp
        self._saved = {doc["path"]: doc for doc in saved}
        self._progress = progress

    async def populate(self, top: Path, url: str) -> None:
        """Raises WorkspaceError and GitError."""
        if not (top / ".gitmodules").is_file():
            return
        modules = [module async for module in _listed(top)]
        if not modules:
            return
        paths = [f":(top,literal){module.path}" for module in modules]  # it gives up at a link that .gitmodules lacks
        await git(top, *SAFE, "submodule", "--quiet", "init", "--", *paths)  # by origin's real URL: some are relative
        for module in modules:
            there = await git(top, "config", "--get", f"submodule.{module.name}.url", ok=(0, 1))
            if not there:
                continue
            if is_folder(there) and (not is_folder(url) or not self._may_have(there)):
                sentence = f"submodule {module.path}: {there} is a folder of this machine that no job may be given"
                raise WorkspaceError(sentence, Fault.MANIFEST)
            await self._populate(top, module, there)
            await self.populate(top / module.path, there)

    def _may_have(self, url: str) -> bool:
        """In a sandbox only what the job could read by itself."""
        path = Path(url.removeprefix("file://"))
        return self._term.place is as_it_is or self._term.place(path) == path.resolve()

    async def _populate(self, top: Path, module: Submodule, url: str) -> None:
        reach, folder = reach_of(url), top / module.path
        self._term.submodules[str(folder.relative_to(self._term.path))] = reach.url
        outer = git_dir_of(top)
        assert outer is not None
        git_dir = outer / "modules" / module.name
        self._progress(f"fetching the submodule {module.path}")
        there = await list_refs(reach)

        async def make(cache: Path) -> None:
            await self._clone(top, module, git_dir, cache, reach)

        leftovers = (git_dir, folder / ".git")
        await self._caches.used(reach, there, REFSPECS, self._progress, make, leftovers)

    async def _clone(self, top: Path, module: Submodule, git_dir: Path, cache: Path, reach: Reach) -> None:
        folder = top / module.path
        git_dir.parent.mkdir(parents=True, exist_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        argv = ("clone", "--quiet", "--no-checkout", "--template=", "--origin", "origin")
        await git(top, *argv, f"--separate-git-dir={git_dir}", "--", str(cache), str(folder))
        back = _join(folder, git_dir)
        await git(git_dir, "config", "core.worktree", back, env={"GIT_DIR": str(git_dir)})
        await git(folder, "remote", "set-url", "origin", reach.url)
        tips = [commit for name, commit in (await read_refs(git_dir)).refs.items() if name.startswith("refs/remotes/")]
        for place in (folder, git_dir):
            self._term.submodule_tips[str(place.relative_to(self._term.path))] = frozenset(tips)
        for place in (folder, git_dir):
            saved = self._saved.get(str(place.relative_to(self._term.path)))
            if saved is not None:
                await unbundle(self._term, git_dir, saved, self._tmp)
        await self._check_out(folder, module, reach)

    async def _check_out(self, folder: Path, module: Submodule, reach: Reach) -> None:
        said = await git(folder, "cat-file", "--batch-check", stdin=f"{module.commit}\n".encode())
        if said.endswith("missing"):
            argv = ["git", "fetch", "--quiet", "--no-tags", "origin", module.commit]
            try:
                await run(argv, cwd=folder, env=factory_env(reach.env))
            except GitError as error:
                sentence = f"submodule {module.path}: {reach.url} has no commit {module.commit[:12]}: {error}"
                raise WorkspaceError(sentence, Fault.MANIFEST) from error
        # not `submodule update`: it does nothing where HEAD happens to be right and no file is there
        await git(folder, *SAFE, "checkout", "--quiet", "--detach", module.commit)


def _join(folder: Path, git_dir: Path) -> str:
    """Relative, and the way back: git writes both absolute, and a tree that is moved would lose its submodules."""
    for pack in (git_dir / "objects" / "pack").glob("*.pack"):
        pack.with_suffix(".keep").touch()
    for name in ("info", "hooks"):
        (git_dir / name).mkdir(exist_ok=True)
    (folder / ".git").write_text(f"gitdir: {os.path.relpath(git_dir, folder)}\n")
    return os.path.relpath(folder, git_dir)


async def _listed(top: Path) -> AsyncIterator[Submodule]:
    names = {}
    said = await git(top, "config", "-z", "--file", ".gitmodules", "--get-regexp", r"^submodule\..*\.path$", ok=(0, 1))
    for entry in said.split("\0"):
        key, _, path = entry.partition("\n")
        names[path] = key.removeprefix("submodule.").removesuffix(".path")
    for entry in (await git(top, "ls-files", "--stage", "-z")).split("\0"):
        about, _, path = entry.partition("\t")
        if about.startswith("160000 ") and path in names:
            yield Submodule(names[path], path, about.split()[1])
