"""A bare copy of each source, from which the repositories of its terms are made by hard links.

Nothing of value is in it and nothing borrows from it: whatever is wrong with it, it is thrown away and made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from factory.git.config import append_config
from factory.git.environment import factory_env
from factory.git.run import GitError, Progress, git, run
from factory.git.urls import Reach
from factory.ports import Fault, WorkspaceError
from factory.workspace.remote import RemoteRefs
from factory.workspace.removal import remove_folder
from runtime.lockfile import AlreadyLocked, LockFile

LOCK_LOOK_S = 0.02
PACKS_MAX = 20
NO_DEFAULT = "refs/heads/gigafactory-none"  # a HEAD that names nothing would make a clone take git's own default
GOOD = "good"  # the file that says so, with what was looked at
SOURCE = "source"  # the file with its URL
BLOCK = 1 << 20

CONFIG = (
    ("core", None, "hooksPath", "/dev/null"),
    ("gc", None, "auto", "0"),
    ("fetch", None, "unpackLimit", "1"),  # packs only: they can be linked, and git syncs them to the disk
    ("http", None, "lowSpeedLimit", "1000"),
    ("http", None, "lowSpeedTime", "60"),
)
FETCH = (
    "--progress", "--prune", "--force", "--no-tags", "--no-auto-gc", "--no-write-fetch-head", "--update-shallow",
    "--recurse-submodules=no",
)  # fmt: skip
REFSPECS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", "^refs/heads/fleet/*")


T = TypeVar("T")


class Caches:
    def __init__(self, root: Path) -> None:
        self._root = root

    @asynccontextmanager
    async def locked(self, url: str) -> AsyncIterator[None]:
        """One at a time for each source, also among several processes."""
        self._root.mkdir(parents=True, exist_ok=True)
        path = self._path(url).with_suffix(".lock")
        while True:
            try:
                lock = LockFile(path)
                break
            except AlreadyLocked:
                await asyncio.sleep(LOCK_LOOK_S)
        try:
            yield
        finally:
            lock.release()

    async def current(self, reach: Reach, there: RemoteRefs, refspecs: tuple[str, ...], progress: Progress) -> Path:
        """With all that the source has, looked at for damage. Under its lock. Raises WorkspaceError."""
        path = self._path(reach.url)
        try:
            return await self._current(path, reach, there, refspecs, progress)
        except GitError as error:
            progress(f"the copy of {reach.url} is of no use, and is made anew: {error}")
            await self.discard(reach.url)
        try:
            return await self._current(path, reach, there, refspecs, progress)
        except GitError as error:  # the source has just answered: it is this machine that cannot
            raise WorkspaceError(f"{reach.url}: {error}", Fault.MACHINE) from error

    async def used(
        self,
        reach: Reach,
        there: RemoteRefs,
        refspecs: tuple[str, ...],
        progress: Progress,
        use: Callable[[Path], Awaitable[T]],
        leftovers: Sequence[Path],
    ) -> T:
        """What `use` makes of the copy. Under its lock. Twice at most, since what only a checkout finds damaged is in
        order in a new copy: `leftovers` of the first time are removed. Raises WorkspaceError, and GitError of the last.
        """
        async with self.locked(reach.url):
            try:
                return await use(await self.current(reach, there, refspecs, progress))
            except GitError as error:
                progress(f"the copy of {reach.url} is of no use, and is made anew: {error}")
            for half in leftovers:
                if half.exists():
                    await asyncio.to_thread(remove_folder, half)
            await self.discard(reach.url)
            return await use(await self.current(reach, there, refspecs, progress))

    def sources(self) -> dict[str, Path]:
        """The copies that there are, by URL."""
        there = [path for path in sorted(self._root.glob("*.git")) if (path / SOURCE).is_file()]
        return {os.fsdecode((path / SOURCE).read_bytes()): path for path in there}

    async def discard(self, url: str) -> None:
        path = self._path(url)
        with contextlib.suppress(OSError):
            (path / GOOD).unlink()
        await self._clear(path)

    @staticmethod
    async def _clear(path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(remove_folder, path)

    def _path(self, url: str) -> Path:
        return self._root / f"{hashlib.sha256(url.encode(errors='surrogateescape')).hexdigest()[:16]}.git"

    async def _current(
        self, path: Path, reach: Reach, there: RemoteRefs, refspecs: tuple[str, ...], progress: Progress
    ) -> Path:
        if not (path / GOOD).exists():
            await self._make(path, reach, there, refspecs, progress)
        elif await _refs_of(path) != there.wanted():
            await _fetch(path, reach, there, refspecs, progress)
        known = await asyncio.to_thread(check_packs, path, _known(path))
        (path / GOOD).write_text(json.dumps(known))
        wanted = "\n".join(there.wanted().values()).encode()
        said = await run(["git", "cat-file", "--batch-check"], cwd=path, env=factory_env(), stdin=wanted or b"\n")
        if wanted and b" missing" in said:
            raise GitError("objects are missing")
        if sum(1 for _ in (path / "objects" / "pack").glob("*.pack")) > PACKS_MAX:
            await git(path, "repack", "-a", "-d", "-q")  # nobody borrows from it
        return path

    async def _make(
        self, path: Path, reach: Reach, there: RemoteRefs, refspecs: tuple[str, ...], progress: Progress
    ) -> None:
        """Aside, and renamed when it is whole."""
        await self._clear(path)
        new = self._root / f".new-{uuid.uuid4().hex}"
        try:
            kind = "sha256" if any(len(commit) == 64 for commit in there.refs.values()) else "sha1"
            init = ("init", "--quiet", "--bare", "--template=", f"--object-format={kind}")
            await git(self._root, *init, str(new))
            append_config(new / "config", CONFIG)
            await _fetch(new, reach, there, refspecs, progress)
            (new / SOURCE).write_bytes(os.fsencode(reach.url))
            (new / GOOD).touch()
            new.rename(path)
        finally:
            await self._clear(new)


async def _fetch(path: Path, reach: Reach, there: RemoteRefs, refspecs: tuple[str, ...], progress: Progress) -> None:
    argv = ["git", "fetch", *FETCH, "--", reach.url, *refspecs]
    await run(argv, cwd=path, env=factory_env(reach.env), progress=progress)
    await git(path, "pack-refs", "--all")
    await git(path, "symbolic-ref", "HEAD", there.default or NO_DEFAULT)


async def _refs_of(path: Path) -> dict[str, str]:
    said = await git(path, "for-each-ref", "--format=%(refname) %(objectname)")
    return dict(line.split(" ") for line in said.splitlines())


def _known(path: Path) -> dict[str, list[int]]:
    try:
        return dict(json.loads((path / GOOD).read_text()))
    except (OSError, ValueError):
        return {}


def check_packs(repository: Path, known: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Every pack and index ends with the hash of what is before it: half a second for 260 MB, where fsck takes seven.

    `known`: name -> inode, size and time of those that were good before; the same of all that are good now is returned.
    Raises GitError for one that is not.
    """
    good: dict[str, list[int]] = {}
    try:
        for file in sorted((repository / "objects" / "pack").iterdir()):
            if file.suffix not in (".pack", ".idx"):
                continue
            stat = file.stat()
            look = [stat.st_ino, stat.st_size, stat.st_mtime_ns]
            if known.get(file.name) != look and not _ends_with_its_hash(file, stat.st_size):
                raise GitError(f"{file.name} is damaged")
            if file.suffix == ".pack" and not file.with_suffix(".idx").exists():
                raise GitError(f"{file.name} has no index")
            good[file.name] = look
    except OSError as error:
        raise GitError(f"it cannot be read: {error}") from error
    return good


def _ends_with_its_hash(file: Path, size: int) -> bool:
    name = file.name.rpartition("-")[2].partition(".")[0]  # pack-HASH: as long as the repository's hashes are
    digest = hashlib.sha256() if len(name) == 64 else hashlib.sha1(usedforsecurity=False)
    left = size - digest.digest_size
    with file.open("rb") as opened:
        while left > 0 and (block := opened.read(min(left, BLOCK))):
            digest.update(block)
            left -= len(block)
        return left == 0 and opened.read() == digest.digest()
