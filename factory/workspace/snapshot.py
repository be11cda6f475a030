"""The files of a work tree as one commit in the vault: what `git add --all` would record in the engine's own eyes.

The engine need not stand still. Its index is copied, so that its flags count: what it hid (skip-worktree, sparse) or
ignores stays out, what it added by force is in. Its own index and HEAD stay as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from factory.git.run import GitError, git, is_machines
from factory.workspace import lfs
from factory.workspace.reading import git_dir_of, read_refs
from factory.workspace.term_repository import TermRepository

BIG_INDEX = 1 << 20
SAME_SECOND_S = 1.01
ONLY_HIDDEN = "outside of your sparse-checkout"
ADD_TRIES = 6
HIDDEN_TRIES = 3
EXCLUDE_BYTES_MAX = 1 << 20
FIXED_DATES = {"GIT_AUTHOR_DATE": "@0 +0000", "GIT_COMMITTER_DATE": "@0 +0000"}  # the same content is the same commit
TAKEN_FILTERS = frozenset({"unspecified", "unset", "set"})


@dataclass(frozen=True)
class WorkTree:
    """`git_dir`: of the repository that it belongs to. `head`: what its snapshot goes on from."""

    path: Path
    git_dir: Path
    index: Path
    head: str


@dataclass(frozen=True)
class Snapshot:
    """`left_out`: changed files whose filter this machine does not have, which are never taken raw."""

    commit: str
    tree: str
    left_out: tuple[str, ...] = ()


class Snapshots:
    """Of one term. `objects`: folders of objects that the vault may borrow from while it looks."""

    def __init__(self, term: TermRepository, objects: Path, tmp: Path) -> None:
        self._term = term
        self._objects = objects
        self._tmp = tmp

    async def take(self, work: WorkTree, message: str | None) -> Snapshot:
        """`message` None: a commit that only its content tells from others. Raises GitError and OSError."""
        with tempfile.TemporaryDirectory(dir=self._tmp, ignore_cleanup_errors=True) as folder:
            env = {
                "GIT_DIR": str(self._term.vault),
                "GIT_WORK_TREE": str(work.path),
                "GIT_INDEX_FILE": str(Path(folder) / "index"),
                "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(self._objects),
            }
            left_out = await self._add_as_the_engine_would(work, env, Path(folder))
            tree = await git(work.path, "write-tree", env=env)
            if tree == await git(work.path, "rev-parse", f"{work.head}^{{tree}}", env=env):
                return Snapshot(work.head, tree, left_out)
            dates = {} if message is not None else FIXED_DATES
            argv = ("commit-tree", tree, "-p", work.head, "-m", message or "uncommitted")
            return Snapshot(await git(work.path, *argv, env=env | dates), tree, left_out)

    async def _add_as_the_engine_would(self, work: WorkTree, env: Mapping[str, str], folder: Path) -> tuple[str, ...]:
        """Once more where it changed meanwhile what is hidden: it may have hidden a file, and written it then."""
        left_out: tuple[str, ...] = ()
        for _ in range(HIDDEN_TRIES):
            exclude, seen = _exclude_of(work.git_dir), _sign(work.index)
            (self._term.vault / "info" / "exclude").write_bytes(exclude)
            await self._copy_index(work, env)
            left_out = await self._add_steadily(work, env, folder)
            if (exclude, seen) == (_exclude_of(work.git_dir), _sign(work.index)):
                break
        return left_out

    async def _copy_index(self, work: WorkTree, env: Mapping[str, str]) -> None:
        """Refreshed once for each state of the engine's: git takes every file of an index's own second for changed, in
        a copy for ever."""
        mine = Path(env["GIT_INDEX_FILE"])
        try:
            found, sign = work.index.stat(), str(_sign(work.index))
            name = hashlib.sha256(os.fsencode(work.index)).hexdigest()[:16]
            fresh = self._term.vault / "indexes" / name / sign
            shutil.copy2(fresh if fresh.exists() else work.index, mine)
            for shared in work.index.parent.glob("sharedindex.*"):
                shutil.copy2(shared, self._term.vault / shared.name)
            await git(work.path, "ls-files", "--stage", "-z", env=env)  # reads all of it: is it whole?
            if not fresh.exists():
                if found.st_size > BIG_INDEX:
                    await asyncio.sleep(max(0.0, found.st_mtime + SAME_SECOND_S - time.time()))
                await git(work.path, "update-index", "-q", "--refresh", env=env, ok=(0, 1))
                shutil.rmtree(fresh.parent, ignore_errors=True)
                fresh.parent.mkdir(parents=True)
                shutil.copy2(mine, fresh)
        except (OSError, GitError):  # none, or damaged
            _remove(mine)
            await git(work.path, "read-tree", work.head, env=env)

    async def _add_steadily(self, work: WorkTree, env: Mapping[str, str], folder: Path) -> tuple[str, ...]:
        """A file that goes while git looks at it makes it give up: the next look sees the tree without it. What is told
        is the first error: a git that gave up may leave its lock to the next.
        """
        first: GitError | None = None
        for _ in range(ADD_TRIES):
            _remove(Path(f"{env['GIT_INDEX_FILE']}.lock"))
            try:
                return await add_all(work.path, env, folder)
            except GitError as error:
                first = first or error
                if "no sign of life" in str(error) or is_machines(error):  # it would be so again
                    break
        assert first is not None
        raise first


async def _take_links(top: Path, env: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The submodules' own commits into the index; gives their paths. `git add` would start a git in each of them, which
    obeys the configuration that a job left there. Those whose repository is gone, for which it would give up, are
    folders with files: they are given apart, and are links no more.
    """
    links, broken, moved = [], [], []
    for entry in (await git(top, "ls-files", "--stage", "-z", env=env)).split("\0"):
        about, _, name = entry.partition("\t")
        if not about.startswith("160000 "):
            continue
        git_dir = git_dir_of(top / name)
        if git_dir is None and (top / name / ".git").is_file():
            broken.append(name)
            moved.append(f"0 {'0' * 40}\t{name}\0")
            continue
        if git_dir is None and not _is_empty_folder(top / name):
            continue  # removed, or files took its place
        links.append(name)
        head = (await read_refs(git_dir)).head if git_dir is not None else None
        if head is not None and head != about.split()[1]:
            moved.append(f"160000 {head}\t{name}\0")
    if moved:
        await git(top, "update-index", "-z", "--index-info", env=env, stdin=os.fsencode("".join(moved)))
    return links, broken


def _exclude_of(git_dir: Path) -> bytes:
    exclude = git_dir / "info" / "exclude"
    if not exclude.is_file():
        return b""
    with exclude.open("rb") as file:
        return file.read(EXCLUDE_BYTES_MAX)


def _sign(index: Path) -> str | None:
    """Of one state of an index; None where there is none."""
    with contextlib.suppress(OSError):
        found = index.stat()
        return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"
    return None


def _is_empty_folder(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _remove(index: Path) -> None:
    index.unlink(missing_ok=True)


def _names_a_filter(attributes: Path) -> bool:
    with contextlib.suppress(OSError):
        return attributes.is_file() and not attributes.is_symlink() and b"filter=" in attributes.read_bytes()
    return False


async def unknown_filters(top: Path, env: Mapping[str, str]) -> tuple[str, ...]:
    """Changed files that go through a filter which the repository of `env` does not have: they are never taken raw."""
    attributes = await git(
        top, "ls-files", "--cached", "--others", "-z", "--", ".gitattributes", "**/.gitattributes", env=env
    )
    if not any(_names_a_filter(top / name) for name in attributes.split("\0") if name):
        return ()
    changed = await git(top, "ls-files", "--modified", "--others", "--exclude-standard", "-z", env=env)
    names = [name for name in changed.split("\0") if name and not name.endswith("/")]
    if not names:
        return ()
    told = os.fsencode("\0".join(names))
    said = (await git(top, "check-attr", "-z", "--stdin", "filter", env=env, stdin=told)).split("\0")
    pairs = list(zip(said[0::3], said[2::3], strict=False))
    repository = Path(env["GIT_DIR"])
    if any(driver == "lfs" for _, driver in pairs):
        await lfs.use_filter(repository)
    known = {
        driver: await _has_filter(repository, driver) for driver in {driver for _, driver in pairs} - TAKEN_FILTERS
    }
    lacking = [name for name, driver in pairs if driver not in TAKEN_FILTERS and not known[driver]]
    return tuple(lacking)


async def _unreadable(top: Path, env: Mapping[str, str]) -> list[str]:
    said = await git(top, "ls-files", "--modified", "--others", "--exclude-standard", "-z", env=env)
    there = [name for name in said.split("\0") if name and (top / name).is_file() and not (top / name).is_symlink()]
    return [name for name in there if not os.access(top / name, os.R_OK)]


async def _has_filter(repository: Path, driver: str) -> bool:
    found = ("config", "--get", f"filter.{driver}.clean")
    return bool(await git(repository, *found, env={"GIT_DIR": str(repository)}, ok=(0, 1)))


@contextlib.contextmanager
def excluding(repository: Path, exclude: bytes) -> Iterator[None]:
    """What a repository inside hides is hidden, for as long as its files are looked at."""
    file = repository / "info" / "exclude"
    before = file.read_bytes() if file.exists() else b""
    file.write_bytes(exclude)
    try:
        yield
    finally:
        file.write_bytes(before)


async def add_all(top: Path, env: Mapping[str, str], folder: Path) -> tuple[str, ...]:
    """Into the index that `env` names, the files of repositories inside as files: git would take one for a link to its
    commit, or refuse all where it has none. Gives what was left out (see `unknown_filters`). `folder`: for their
    indexes. Raises GitError.
    """
    lacking = await unknown_filters(top, env)
    left_out = [f"{name} (this machine has not the filter that it goes through)" for name in lacking]
    others = await git(top, "ls-files", "--others", "--exclude-standard", "-z", env=env)
    inside = [name.rstrip("/") for name in others.split("\0") if name.endswith("/")]
    links, broken = await _take_links(top, env)
    inside += broken
    without = [f":(exclude,top,literal){name}" for name in (*inside, *lacking, *links)]
    spec = os.fsencode("\0".join([".", *without]))
    try:
        await git(top, "add", "--all", "--pathspec-from-file=-", "--pathspec-file-nul", env=env, stdin=spec)
    except GitError as error:
        if "Permission denied" in str(error):  # one file that cannot be read must not keep all others out
            unread = await _unreadable(top, env)
            without += [f":(exclude,top,literal){name}" for name in unread]
            left_out += [f"{name} (it cannot be read)" for name in unread]
            spec = os.fsencode("\0".join([".", *without]))
            await git(top, "add", "--all", "--pathspec-from-file=-", "--pathspec-file-nul", env=env, stdin=spec)
        elif ONLY_HIDDEN not in str(error):  # git takes it for a mistake that there is nothing but what is hidden
            raise
    for name in inside:
        index = folder / hashlib.sha256(os.fsencode(top / name)).hexdigest()
        inner = {**env, "GIT_INDEX_FILE": str(index), "GIT_WORK_TREE": str(top / name)}
        git_dir = git_dir_of(top / name)
        with excluding(Path(env["GIT_DIR"]), _exclude_of(git_dir) if git_dir is not None else b""):
            left_out += [f"{name}/{one}" for one in await add_all(top / name, inner, folder)]
        tree = await git(top / name, "write-tree", env=inner)
        await git(top, "read-tree", f"--prefix={name}/", tree, env=env)
    return tuple(left_out)
