"""What a term has made so far: its files as a snapshot, and all that is beside it.

Beside are the other local branches and tags, stashes, linked worktrees, and the repositories inside as bundles. Commits
that only a reflog knows are not kept: the engine discarded them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from factory.git.run import GitError
from factory.git.urls import is_folder
from factory.ports import TreeError
from factory.workspace.bundles import bundle_inside
from factory.workspace.leading_out import leads_out
from factory.workspace.objects import own_objects
from factory.workspace.reading import Refs, linked_worktrees, pending, read_refs, stashes
from factory.workspace.snapshot import FIXED_DATES, Snapshot, Snapshots, WorkTree
from factory.workspace.term_repository import Pushed, TermRepository, make_vault

NOT_BESIDE = ("refs/remotes/", "refs/stash", "refs/resume/", "refs/bisect/")
STASH, WORKTREES, PENDING, BUNDLES = "stash/", "worktrees/", "pending/", "bundles"
GIT_READS = frozenset({".gitignore", ".gitattributes", ".gitmodules", ".mailmap"})
ONLY_FILES = "its files are saved, and of its commits what the last checkpoint had"
NEW_REPOSITORY = "the job made its folder a new repository: its history does not go on from where the job began"


@dataclass(frozen=True)
class Look:
    """`beside`: name -> commit. `pushed`: what tells whether it is the same as at the last push. `worktrees`:
    linked ones, whose files are in it.
    """

    snapshot: str
    tree: str
    head: str | None
    branch: str | None
    beside: dict[str, str]
    pushed: Pushed
    notes: tuple[str, ...]
    worktrees: tuple[Path, ...]


async def look(term: TermRepository, message: str, tmp: Path) -> Look:
    """At what the engine left, wherever it put it; the vault has all of it afterwards. Raises GitError and OSError."""
    if term.path.is_symlink() or not term.path.is_dir():
        raise TreeError("the job put something else in the place of its tree: nothing of that is looked at")
    notes = await asyncio.to_thread(_check_files, term.path)
    if not (term.vault / "HEAD").exists():
        await _make_vault_again(term)
    for lock in await asyncio.to_thread(list, _stale_locks(term)):
        lock.unlink(missing_ok=True)
    git_dir, of_repository = _repository_of(term)
    notes += of_repository
    left = await read_refs(git_dir) if git_dir.exists() else Refs({}, None, None)
    if git_dir.exists() and not _goes_on(term):
        notes += (NEW_REPOSITORY,)
    head = left.head or term.last_head or term.base
    beside = _refs_beside(term, git_dir, left)
    beside |= {f"{STASH}{at}/{said}": commit for at, (commit, said) in enumerate(stashes(git_dir))}
    snapshots = Snapshots(term, git_dir / "objects", tmp)
    taken = await snapshots.take(WorkTree(term.path, git_dir, git_dir / "index", head), message)
    worktrees = []
    for linked in linked_worktrees(git_dir, left):
        commit = linked.head
        there = term.place(linked.path)
        if there is None and linked.path.is_dir():
            notes += (f"not saved, since the job has no such folder: the worktree {linked.path}",)
        elif there is not None and there.is_dir():
            worktrees.append(there)
            work = WorkTree(there, git_dir, linked.index_file, linked.head)
            commit = (await snapshots.take(work, None)).commit
        beside[f"{WORKTREES}{linked.name}"] = commit
        stopped = pending(git_dir / "worktrees" / linked.name)
        beside |= {f"{PENDING}{linked.name}-{name}": told for name, told in stopped.items()}
    beside, lacking = await _commits_only(term, git_dir, beside)
    notes += lacking
    sign = tuple(sorted(beside.items()))
    bundles = await bundle_inside(term, tmp, [taken.commit, *beside.values()]) if git_dir.exists() else None
    if bundles is not None:
        notes += bundles.notes
        if bundles.commit is not None:
            beside[BUNDLES] = bundles.commit
            sign = (*sign, (BUNDLES, bundles.sign))
    if taken.left_out:
        notes += (f"not saved: {', '.join(taken.left_out)}",)
    whole, incomplete = await _own_what_is_whole(term, taken, beside)
    beside = {name: commit for name, commit in beside.items() if name not in incomplete}
    sign = tuple(entry for entry in sign if entry[0] not in incomplete)
    if incomplete or whole != taken.commit:
        names = [*([] if whole == taken.commit else ["the history of HEAD"]), *sorted(incomplete)]
        notes += (f"not saved, since objects of it are missing (a shallow fetch?) or damaged: {', '.join(names)}",)
    snapshot = await _same_as_before(term, whole, head)
    pushed = Pushed(taken.tree, left.head, left.branch, sign)
    return Look(snapshot, taken.tree, left.head, left.branch, beside, pushed, notes, tuple(worktrees))


async def _own_what_is_whole(term: TermRepository, taken: Snapshot, beside: dict[str, str]) -> tuple[str, set[str]]:
    """The snapshot, on the base where what it goes on from is not whole; and the names of what else is not."""
    known = [commit for commit in (term.base, term.kept) if commit]
    with contextlib.suppress(GitError):
        await own_objects(term, [taken.commit, *beside.values()], known)
        return taken.commit, set()
    incomplete, snapshot = set(), taken.commit
    for name, commit in beside.items():
        try:
            await own_objects(term, [commit], known)
        except GitError:
            incomplete.add(name)
    try:
        await own_objects(term, [snapshot], known)
    except GitError:
        argv = ("commit-tree", taken.tree, "-p", term.base, "-m", "what was left, without its history")
        env = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(term.git_dir / "objects"), **FIXED_DATES}
        snapshot = await term.in_vault(*argv, env=env)
        await own_objects(term, [snapshot], known)
    return snapshot, incomplete


def _check_files(top: Path) -> tuple[str, ...]:
    """What git only warns of, or would wait for without end. Raises TreeError."""
    unread: list[str] = []

    def unreadable(error: OSError) -> None:
        unread.append(str(Path(str(error.filename)).relative_to(top)))

    for folder, names, files in os.walk(top, onerror=unreadable):
        for name in GIT_READS.intersection(files):
            mode = os.lstat(os.path.join(folder, name)).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise TreeError(f"{Path(folder, name).relative_to(top)} is no file: git would wait for it")
        if ".git" in names:
            names.remove(".git")
    return (f"not saved, since it cannot be read: {', '.join(sorted(unread))}",) if unread else ()


def _stale_locks(term: TermRepository) -> Iterator[Path]:
    """Left by a git of this term that was killed: no other one writes these refs, and none of its own runs now."""
    yield from term.vault.glob("*.lock")
    yield from (term.vault / "refs").rglob("*.lock")
    if is_folder(term.reach.url):
        source = Path(term.reach.url.removeprefix("file://"))
        for git_dir in (source, source / ".git"):
            yield git_dir / f"{term.ref}.lock"
            yield git_dir / "refs" / "heads" / f"{term.branch}.lock"


def _repository_of(term: TermRepository) -> tuple[Path, tuple[str, ...]]:
    """The engine's, and what is to be said of it; where there is none of its own, a path to nothing."""
    nothing = term.folder / "none"
    if (out := leads_out(term.git_dir, term.place)) is not None:
        return nothing, (f"{out.relative_to(term.path)} leads to what is not the job's: {ONLY_FILES}",)
    if not (term.git_dir / "HEAD").is_file() or term.git_dir.is_symlink():
        return nothing, (f"the job removed its repository (.git): {ONLY_FILES}",)
    return term.git_dir, ()


def _goes_on(term: TermRepository) -> bool:
    """Whether it still has what it was given: those packs no git of the engine's removes (see `link_packs`)."""
    return term.remote is None or any((term.git_dir / "objects" / "pack").glob("*.keep"))


def _refs_beside(term: TermRepository, git_dir: Path, left: Refs) -> dict[str, str]:
    """Every ref that is not as the term was given it, but for HEAD's own branch. Remote-tracking refs prove nothing: a
    job may have had remotes that are gone.
    """
    theirs = set(term.granted.values())
    beside = {
        name: commit
        for name, commit in left.refs.items()
        if not name.startswith(NOT_BESIDE) and name != left.branch and commit not in theirs
    }
    kept = [commit for commit, _ in stashes(git_dir)]
    if (stash := left.refs.get("refs/stash")) and stash not in kept:  # its log is gone
        beside[f"{STASH}0/without its log"] = stash
    return beside | {f"{PENDING}{name}": commit for name, commit in pending(git_dir).items()}


async def _commits_only(
    term: TermRepository, git_dir: Path, beside: dict[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """A tag of a file cannot be joined to a commit, nor can what is damaged: each is named."""
    if not beside:
        return beside, ()
    told = "\n".join(f"{commit}^{{commit}}" for commit in beside.values()).encode() + b"\n"
    env = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(git_dir / "objects")}
    said = (await term.in_vault("cat-file", "--batch-check", env=env, stdin=told)).splitlines()
    good = {name: commit for (name, commit), line in zip(beside.items(), said, strict=True) if " commit " in line}
    lost = sorted(beside.keys() - good.keys())
    return good, (f"not saved, since they are no commits or are damaged: {', '.join(lost)}",) if lost else ()


async def _make_vault_again(term: TermRepository) -> None:
    """The engine removed it: what was in it is pushed, or in the tree."""
    await make_vault(term)
    if term.kept is not None:
        argv = ("fetch", "--quiet", "--no-tags", "--", term.reach.url, f"+{term.kept_at}:refs/keep/k")
        await term.in_vault(*argv, env=term.reach.env)


async def _same_as_before(term: TermRepository, snapshot: str, head: str) -> str:
    """The same tree on the same HEAD is the same snapshot, whatever the clock says; a commit of the engine's stays."""
    if snapshot == head:
        return snapshot
    for old in (term.snapshot, term.base):
        if old and old not in (snapshot, head) and await _shape(term, old) == await _shape(term, snapshot):
            return old
    return snapshot


async def _shape(term: TermRepository, commit: str) -> str:
    return await term.in_vault("log", "-1", "--format=%T %P", commit)
