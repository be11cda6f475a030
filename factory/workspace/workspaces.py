"""Every tree of a factory, by term: where it is made, where it goes at its end.

trees/JOB/EPOCH       a term's: `tree`, `vault.git`, and `term.json`, which is written last
cache/HASH.git        a copy of each source, of no consequence to what was made from it
repos/own             where the work of trees without a repository is pushed
finished/JOB/EPOCH    trees without a repository of terms that ended well, for a while
quarantine/JOB/EPOCH  trees with something that is pushed nowhere, or of a holder that was superseded
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path

from factory.git.run import GitError, git
from factory.git.urls import Reach, reach_of
from factory.ports import Fault, Place, Saved, WorkspaceError, Worktree
from factory.workspace import publishing, saving
from factory.workspace.looking import look
from factory.workspace.older import set_aside_worktrees
from factory.workspace.preparing import Preparing
from factory.workspace.reading import linked_worktrees, read_refs
from factory.workspace.removal import remove_folder, sweep
from factory.workspace.term_repository import SAFE, Pushed, TermRepository
from schemas.messages import Grant

log = logging.getLogger(__name__)

WHOLE = "term.json"  # a folder without it had no engine
PUT_BY = "pushed.json"
KEPT = "kept.json"
OWN_ENTRIES = ("tree", "vault.git", WHOLE, PUT_BY, KEPT)
KEYS = ("repo:", "ref:", "cwd:", "checkpoint:", "submodule ", "the checkpoint ")


def say_nothing(_line: str) -> None: ...


class Workspaces:
    """`workspace_map`: roots as manifests name them -> folders of this machine. `place`: where that is which
    the programs of a term have at a path.
    """

    def __init__(
        self,
        root: Path,
        workspace_map: Mapping[str, Path],
        place: Place | None = None,
    ) -> None:
        self._root = root
        longest_first = sorted(workspace_map.items(), key=lambda item: len(item[0]), reverse=True)
        self._map = {name.rstrip("/"): path.resolve() for name, path in longest_first}
        self._preparing = Preparing(root, self._map, place)
        self._sweeping: set[asyncio.Task[None]] = set()

    @property
    def roots(self) -> tuple[str, ...]:
        return tuple(sorted(self._map))

    async def prepare(self, grant: Grant, progress: Callable[[str], None] = say_nothing) -> Worktree:
        """`progress` hears what is being done. Raises WorkspaceError: no such repository, ref or folder, or a machine
        that cannot. Cancelled, it leaves nothing behind.
        """
        folder = self._root / "trees" / grant.job_id / str(grant.lease_epoch)
        try:
            self._tmp.mkdir(parents=True, exist_ok=True)
            if folder.exists():  # the same term twice, as no two sessions should
                await self._set_aside(folder, "its term was begun a second time")
            folder.mkdir(parents=True)
            try:
                term = await self._preparing.prepare(grant, folder, progress)
                (folder / WHOLE).write_text(json.dumps({"url": term.reach.url, "base": term.base}))
                return term
            except BaseException:
                await asyncio.shield(asyncio.to_thread(remove_folder, folder))
                raise
        except WorkspaceError as error:
            raise WorkspaceError(_named(str(error), grant), error.fault) from error
        except (GitError, OSError) as error:
            what = reach_of(grant.repo).url if grant.repo else grant.cwd or "the scratch tree"
            raise WorkspaceError(_named(f"{what}: {error}", grant), Fault.MACHINE) from error

    async def save(self, tree: Worktree, message: str) -> Saved | None:
        """All that the term has made, pushed. None: nothing new since the last time. Raises GitError."""
        try:
            return await saving.save(_of(tree), message, self._tmp)
        except OSError as error:
            raise GitError(f"no snapshot: {error}") from error

    async def is_saved(self, tree: Worktree) -> bool:
        """Whether all that is in the tree is pushed, or is what the term began with. Raises GitError."""
        term = _of(tree)
        try:
            seen = await look(term, "look", self._tmp)
        except OSError as error:
            raise GitError(f"no snapshot: {error}") from error
        term.notes = (*seen.notes, *_beside_the_tree(term.folder, seen.worktrees))
        return saving.is_saved(term, seen) and not term.notes

    async def settle(self, tree: Worktree) -> bool:
        """The engine has ended: whether all that it left is saved. What comes after it is no work of the term."""
        tree.settled = await self.is_saved(tree)
        return tree.settled

    async def publish(self, tree: Worktree, saved_commit: str) -> str | None:
        """The branch of a finished term, or None where there is no repository to push it to. Raises GitError."""
        return await publishing.publish(_of(tree), saved_commit) if tree.remote is not None else None

    async def diff_stat(self, tree: Worktree, commit: str) -> dict[str, int]:
        """files, insertions and deletions since the term began."""
        total = {"files": 0, "insertions": 0, "deletions": 0}
        argv = ("diff", "--numstat", "--no-ext-diff", "--no-textconv", tree.base, commit)
        for line in (await _of(tree).in_vault(*argv)).splitlines():
            added, removed, _ = line.split("\t", 2)
            total["files"] += 1
            total["insertions"] += int(added) if added.isdigit() else 0
            total["deletions"] += int(removed) if removed.isdigit() else 0
        return total

    async def changed_since(self, tree: Worktree, commit: str) -> list[str]:
        """The files of `commit` that the tree has otherwise, or no more. Raises GitError."""
        term, index = _of(tree), self._tmp / f"index-{uuid.uuid4().hex}"
        env = {"GIT_DIR": str(term.vault), "GIT_WORK_TREE": str(term.path), "GIT_INDEX_FILE": str(index)}
        try:
            await git(term.path, "read-tree", commit, env=env)
            await git(term.path, "update-index", "-q", "--refresh", env=env, ok=(0, 1))
            said = await git(term.path, "diff-files", "--name-only", "--ignore-submodules=all", "-z", env=env)
        finally:
            index.unlink(missing_ok=True)
        return [name for name in said.split("\0") if name]

    async def clean_up(self, tree: Worktree) -> bool:
        """Out of the way if all of it is pushed. False: something is not, so it stays. Raises GitError, OSError."""
        term = _of(tree)
        if not term.folder.exists():
            return True
        if not term.settled and not await self.is_saved(term):
            return False
        if term.remote is None:
            self._put_by(term)
        else:
            self._sweep_later(term.folder)
        return True

    async def quarantine(self, tree: Worktree, why: str) -> Path | None:
        """Out of the way of a successor, and kept: it is complete by itself. None: it is gone already."""
        term = _of(tree)
        return await self._set_aside(term.folder, why) if term.folder.exists() else None

    def quarantined(self) -> list[Path]:
        """Their trees."""
        folders = [folder for folder in (self._root / "quarantine").glob("*/*") if folder.is_dir()]
        return sorted(folder / "tree" if (folder / "tree").is_dir() else folder for folder in folders)

    async def set_aside_left_over(self) -> int:
        """Trees of an earlier session: nobody knows what is in them, so they are kept in quarantine."""
        moved = await set_aside_worktrees(self._root)
        for path in (
            self._tmp,
            *self._root.glob("trees/*/.gone-*"),
            *self._root.glob("finished/*/.gone-*"),
            *self._root.glob("cache/.*-*"),
        ):
            await asyncio.to_thread(sweep, path)
        for folder in sorted((self._root / "trees").glob("*/*")):
            if not folder.is_dir():
                continue
            if (folder / WHOLE).exists():
                await self._set_aside(folder, "its factory ended in the middle of the term")
                moved += 1
            else:  # it had no engine
                await asyncio.to_thread(remove_folder, folder)
        return moved

    def sources(self) -> dict[str, Path]:
        """The copies of sources that this machine has, by URL."""
        return self._preparing.sources()

    def finished(self) -> list[Path]:
        """Folders of terms without a repository that ended well; nothing is in them that was not saved then."""
        return sorted(path for path in (self._root / "finished").glob("*/*") if path.name.isdigit())

    async def remove_finished(self, folder: Path) -> None:
        """If it is still as it was saved; else somebody worked in it, and it goes to quarantine. Raises OSError."""
        if await self._is_as_put_by(folder):
            await asyncio.to_thread(remove_folder, folder)
        else:
            log.warning("%s is not what its term saved: it is kept in quarantine", folder)
            await self._set_aside(folder, "somebody worked in it after its term")
        with contextlib.suppress(OSError):  # other terms of the job are in there
            folder.parent.rmdir()

    @property
    def _tmp(self) -> Path:
        return self._root / "tmp"

    def _put_by(self, term: TermRepository) -> None:
        doc = {"base": term.base, "granted": dict(term.granted), "kept": term.kept, "pushed": term.pushed}
        _write_anew(term.folder / PUT_BY, doc)
        finished = self._root / "finished" / term.job_id / str(term.lease_epoch)
        finished.parent.mkdir(parents=True, exist_ok=True)
        term.folder.rename(finished)
        os.utime(finished)  # its age counts from here

    async def _is_as_put_by(self, folder: Path) -> bool:
        try:
            doc = json.loads((folder / PUT_BY).read_text())
            term = TermRepository(
                path=folder / "tree",
                work_dir=folder / "tree",
                remote=None,
                job_id=folder.parent.name,
                lease_epoch=int(folder.name),
                base=doc["base"],
                local=True,
                folder=folder,
                reach=Reach(str(self._root / "repos" / "own"), {}),
                granted=doc["granted"],
                kept=doc["kept"],
            )
            self._tmp.mkdir(parents=True, exist_ok=True)
            seen = await look(term, "look", self._tmp)
            if doc["pushed"] is not None:
                tree, head, branch, beside = doc["pushed"]
                term.pushed = Pushed(tree, head, branch, tuple((name, commit) for name, commit in beside))
            return saving.is_saved(term, seen) and not seen.notes
        except (GitError, OSError, ValueError, KeyError) as error:
            log.info("%s: %s", folder, error)
            return False

    async def _set_aside(self, folder: Path, why: str) -> Path:
        """With a note for whoever finds it."""
        kept = _moved(folder, self._root / "quarantine" / folder.parent.name / folder.name)
        with contextlib.suppress(OSError):
            _write_anew(kept / KEPT, {"why": why, "at": datetime.now(UTC).isoformat(timespec="seconds")})
        with contextlib.suppress(GitError, OSError):  # worktrees that the engine made in it know it by its old place
            git_dir = kept / "tree" / ".git"
            inner = [str(linked.path) for linked in linked_worktrees(git_dir, await read_refs(git_dir))]
            moved = [path.replace(str(folder), str(kept), 1) for path in inner if path.startswith(f"{folder}/")]
            if moved:
                await git(kept / "tree", *SAFE, "worktree", "repair", *moved)
        return kept / "tree"

    def _sweep_later(self, folder: Path) -> None:
        """Big trees take minutes to remove on some disks: at once they are only out of the way."""
        doomed = folder.with_name(f".gone-{uuid.uuid4().hex}")
        folder.rename(doomed)
        task = asyncio.create_task(_swept(doomed))
        self._sweeping.add(task)
        task.add_done_callback(self._sweeping.discard)


def _write_anew(path: Path, doc: Mapping[str, object]) -> None:
    """Never through a link that an engine may have put there."""
    path.unlink(missing_ok=True)
    with path.open("x", encoding="utf-8") as file:
        json.dump(doc, file)


def _beside_the_tree(folder: Path, saved: Collection[Path]) -> tuple[str, ...]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.name not in OWN_ENTRIES and entry not in saved)
    return (f"not saved, since it lies beside the tree and not in it: {', '.join(names)}",) if names else ()


def _named(sentence: str, grant: Grant) -> str:
    """With the key of the manifest that it is about in front."""
    if sentence.startswith(KEYS) or not (grant.repo or grant.cwd):
        return sentence
    return f"{'repo' if grant.repo else 'cwd'}: {sentence}"


def _moved(folder: Path, to: Path) -> Path:
    """Beside what is there already."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.exists():
        to = to.with_name(f"{to.name}-{sum(1 for _ in to.parent.iterdir())}")
    folder.rename(to)
    return to


async def _swept(doomed: Path) -> None:
    await asyncio.to_thread(sweep, doomed)
    with contextlib.suppress(OSError):  # other terms of the job are in there
        doomed.parent.rmdir()


def _of(tree: Worktree) -> TermRepository:
    assert isinstance(tree, TermRepository)
    return tree
