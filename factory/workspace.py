"""A git worktree per (job, epoch), from the job's repository or the folder that its `cwd` maps to.

Work in progress is a commit under `refs/gigafactory/{job}/{epoch}` in that repository; the next holder starts from
it. A tree is removed only when everything in it is pushed; a fenced holder's tree is moved to quarantine and kept. A
tree without a repository is pushed to one of the factory's own, and stays for a while among the finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from factory import tree_snapshot
from factory.git import GitError, git
from factory.ports import Saved, WorkspaceError, Worktree
from factory.tree_snapshot import TreeSnapshot, git_in
from runtime.queues import KeyedQueues
from schemas.messages import Grant
from schemas.work import Checkpoint, path_within

log = logging.getLogger(__name__)

_ref = re.compile(r"refs/gigafactory/[a-z0-9_-]+/[0-9]+")
_commit = re.compile(r"[0-9a-f]{40,64}")


class Workspaces:
    """`workspace_map`: roots as manifests name them -> folders of this machine."""

    def __init__(self, root: Path, workspace_map: Mapping[str, Path]) -> None:
        self._root = root
        longest_first = sorted(workspace_map.items(), key=lambda item: len(item[0]), reverse=True)
        self._map = {name.rstrip("/"): path.resolve() for name, path in longest_first}
        self._queues = KeyedQueues()

    @property
    def roots(self) -> tuple[str, ...]:
        return tuple(sorted(self._map))

    async def prepare(self, grant: Grant) -> Worktree:
        """Raises WorkspaceError: no such repository, ref or folder."""
        try:
            return await self._prepare(grant)
        except GitError as error:
            raise WorkspaceError(f"{grant.repo or grant.cwd or 'the scratch tree'}: {error}") from error

    async def save(self, tree: Worktree, message: str) -> Saved | None:
        """The tree as it stands, committed beside its index and pushed. None: nothing new since the last time."""
        content, head, commit, _ = await self._snapshot(tree, message)
        if tree.pushed == (content, head) or (tree.pushed is None and commit == tree.base):
            return None
        kept = commit
        if tree.kept is not None:
            # The coordinator may know of an earlier snapshot only: it must stay reachable from the ref.
            kept = await git_in(tree.path, "commit-tree", content, "-p", commit, "-p", tree.kept, "-m", message)
        if tree.remote is not None:
            await git_in(tree.path, "push", "--quiet", "--force", "--no-verify", tree.remote, f"{kept}:{tree.ref}")
        else:
            await git_in(tree.path, "update-ref", tree.ref, kept)
        tree.pushed, tree.kept = (content, head), kept
        return Saved(commit, content, tree.ref, tree.local)

    async def is_saved(self, tree: Worktree) -> bool:
        """Whether all that is in the tree is pushed, or is what the term began with."""
        content, head, commit, _ = await self._snapshot(tree, "look")
        return tree.pushed == (content, head) or commit == tree.base

    async def publish(self, tree: Worktree, saved_commit: str) -> str | None:
        """The branch of a finished term, or None where there is no repository to push it to."""
        if tree.remote is None:
            return None
        branch = f"fleet/{tree.job_id}/{tree.lease_epoch}"  # not the ref's own name: git takes refs/X before a branch X
        target = f"{saved_commit}:refs/heads/{branch}"
        await git_in(tree.path, "push", "--quiet", "--force", "--no-verify", tree.remote, target)
        return branch

    async def diff_stat(self, tree: Worktree, commit: str) -> dict[str, int]:
        """files, insertions and deletions since the term began."""
        total = {"files": 0, "insertions": 0, "deletions": 0}
        for line in (await git_in(tree.path, "diff", "--numstat", tree.base, commit)).splitlines():
            added, removed, _ = line.split("\t", 2)
            total["files"] += 1
            total["insertions"] += int(added) if added.isdigit() else 0
            total["deletions"] += int(removed) if removed.isdigit() else 0
        return total

    async def clean_up(self, tree: Worktree) -> bool:
        """Out of the way if all of it is pushed. False: something is not, so it stays."""
        if not tree.path.exists():
            return True
        if not await self.is_saved(tree):
            return False
        if more := await tree_snapshot.only_here(tree.path, tree.embedded):
            log.warning("%s: not all of the history of %s is pushed", tree.job_id, ", ".join(more))
            return False
        if tree.remote is None:
            await self._put_by(tree)
        else:
            await git(tree.mirror, "worktree", "remove", "--force", str(tree.path))
        return True

    def finished(self) -> list[Path]:
        """Trees without a repository of terms that ended well; nothing is in them that was not saved then."""
        return sorted(path for path in (self._root / "finished").glob("*/*") if path.name.isdigit())

    async def remove_finished(self, path: Path) -> None:
        """If it is still as it was saved; else somebody worked in it, and it goes to quarantine. Raises OSError."""
        tree = Worktree(path, path, path, None, path.parent.name, int(path.name), "", local=True)
        if await self._is_as_put_by(tree):
            doomed = self._root / "tmp" / f"{tree.job_id}-{tree.lease_epoch}"  # half of it must not look like a tree
            await asyncio.to_thread(_removed, path, doomed)
        else:
            log.warning("%s is not what its term saved: it is kept in quarantine", path)
            await self.quarantine(tree)
        with contextlib.suppress(OSError):  # other terms of the job are in there
            path.parent.rmdir()

    async def _is_as_put_by(self, tree: Worktree) -> bool:
        try:
            content, head, _, embedded = await self._snapshot(tree, "look")
            saved = await git(self._own, "rev-parse", "--verify", f"{tree.ref}^{{commit}}")
            if content != await git(self._own, "rev-parse", f"{saved}^{{tree}}"):
                return False
            await git(self._own, "merge-base", "--is-ancestor", head, saved)
            return not await tree_snapshot.only_here(tree.path, embedded)
        except GitError as error:
            log.info("%s: %s", tree.path, error)
            return False

    @property
    def _own(self) -> Path:
        """Where the work of trees without a repository is pushed, and resumed from."""
        return self._root / "repos" / "own"

    async def _put_by(self, tree: Worktree) -> None:
        async with self._queues.turn(self._own):
            if not (self._own / "HEAD").exists():
                await git(self._root, "init", "--quiet", "--bare", str(self._own))
        work = f"{tree.kept or tree.base}:{tree.ref}"
        await git_in(tree.path, "push", "--quiet", "--force", "--no-verify", str(self._own), work)
        finished = self._root / "finished" / tree.job_id / str(tree.lease_epoch)
        finished.parent.mkdir(parents=True, exist_ok=True)
        tree.path.rename(finished)
        os.utime(finished)  # its age counts from here

    async def quarantine(self, tree: Worktree) -> Path | None:
        """Out of the way of a successor, and kept."""
        if not tree.path.exists():
            return None
        kept = self._root / "quarantine" / tree.job_id / str(tree.lease_epoch)
        kept.parent.mkdir(parents=True, exist_ok=True)
        if kept.exists():
            kept = kept.with_name(f"{kept.name}-{sum(1 for _ in kept.parent.iterdir())}")
        if tree.mirror != tree.path:
            try:
                await git(tree.mirror, "worktree", "move", "--force", "--force", str(tree.path), str(kept))
                return kept
            except GitError as error:
                log.warning("%s is moved without git, which would not: %s", tree.path, error)
        shutil.move(tree.path, kept)
        return kept

    def quarantined(self) -> list[Path]:
        return sorted((self._root / "quarantine").glob("*/*"))

    async def set_aside_left_over(self) -> int:
        """Trees of an earlier session: nobody knows what is in them, so they are kept in quarantine."""
        moved = 0
        shutil.rmtree(self._root / "tmp", ignore_errors=True)
        for path in sorted((self._root / "worktrees").glob("*/*")):
            if not (path.is_dir() and path.name.isdigit()):
                continue
            mirror = await self._mirror_of(path)
            tree = Worktree(path, path, mirror, None, path.parent.name, int(path.name), "", True)
            await self.quarantine(tree)
            moved += 1
        return moved

    async def _mirror_of(self, path: Path) -> Path:
        if not (path / ".git").exists():
            return path  # git would look further up, and find somebody else's
        try:
            common = await git(path, "rev-parse", "--git-common-dir")
        except GitError:
            return path
        resolved = (path / common).resolve()
        return path if resolved == (path / ".git").resolve() else resolved

    async def _prepare(self, grant: Grant) -> Worktree:
        path = self._root / "worktrees" / grant.job_id / str(grant.lease_epoch)
        path.parent.mkdir(parents=True, exist_ok=True)
        source, inside = await self._source(grant)
        if source is None:
            return await self._scratch(grant, path)
        mirror = self._root / "repos" / hashlib.sha256(source.encode()).hexdigest()[:16]
        async with self._queues.turn(mirror):
            if not (mirror / "HEAD").exists():
                await git(self._root, "clone", "--quiet", "--bare", "--", source, str(mirror))
            base = await self._fetched(mirror, source, grant)
            await git(mirror, "worktree", "add", "--quiet", "--force", "--detach", "--", str(path), base)
        work_dir = path / inside
        if not work_dir.is_dir() or not work_dir.resolve().is_relative_to(path.resolve()):
            await git(mirror, "worktree", "remove", "--force", str(path))
            raise WorkspaceError(f"{grant.cwd}: there is no such folder at {grant.ref or 'HEAD'}")
        local = grant.cwd is not None
        return Worktree(path, work_dir, mirror, source, grant.job_id, grant.lease_epoch, base, local)

    async def _source(self, grant: Grant) -> tuple[str | None, Path]:
        """Where the repository is, and the folder in it that the work is about."""
        if grant.repo is not None:
            if grant.repo.startswith("-"):
                raise WorkspaceError(f"repo: found {grant.repo!r}; allowed is a path or URL")
            return grant.repo, Path()
        if grant.cwd is None:
            return None, Path()
        for root, here in self._map.items():
            below = path_within(root, grant.cwd)
            if below is not None:
                folder = (here / below).resolve()
                if not folder.is_relative_to(here):
                    raise WorkspaceError(f"cwd: {grant.cwd} leads out of the workspace {root}")
                if not folder.is_dir():
                    raise WorkspaceError(f"cwd: {grant.cwd}: there is no such folder on this machine")
                within = {"GIT_CEILING_DIRECTORIES": str(here.parent)}
                top = Path(await git(folder, "rev-parse", "--show-toplevel", env=within))
                return str(top), folder.relative_to(top)
        raise WorkspaceError(f"cwd: no workspace of this factory maps {grant.cwd}")

    async def _fetched(self, mirror: Path, source: str, grant: Grant) -> str:
        """The commit to start from, which is in the mirror afterwards."""
        if grant.checkpoint is not None:
            checkpoint = _checked(grant.checkpoint)
            await git(mirror, "fetch", "--quiet", "--no-tags", "--", source, checkpoint.ref)
            return checkpoint.commit
        wanted = grant.ref or "HEAD"
        if wanted.startswith("-") or ":" in wanted:
            raise WorkspaceError(f"ref: found {wanted!r}; allowed is a branch, tag or commit")
        await git(mirror, "fetch", "--quiet", "--no-tags", "--", source, wanted)
        return await git(mirror, "rev-parse", "FETCH_HEAD^{commit}")

    async def _scratch(self, grant: Grant, path: Path) -> Worktree:
        """An empty tree; resumed, the one of the term before, whose commit lies on this machine only."""
        checkpoint = _checked(grant.checkpoint) if grant.checkpoint else None
        await git(self._root, "init", "--quiet", str(path))
        base = await self._resumed(checkpoint, grant.job_id, path) if checkpoint else None
        if base is None:
            await git(path, "commit", "--quiet", "--allow-empty", "--message", "an empty tree")
            base = await git(path, "rev-parse", "HEAD")
        return Worktree(path, path, path, None, grant.job_id, grant.lease_epoch, base, local=True)

    async def _resumed(self, checkpoint: Checkpoint, job_id: str, path: Path) -> str:
        trees = [path for kind in ("worktrees", "quarantine") for path in (self._root / kind / job_id).glob("*")]
        for folder in (self._own, *trees):
            try:
                await git(path, "fetch", "--quiet", "--", str(folder), checkpoint.ref)
            except GitError:
                continue
            await git(path, "reset", "--quiet", "--hard", checkpoint.commit)
            return checkpoint.commit
        shutil.rmtree(path)
        raise WorkspaceError(f"the checkpoint {checkpoint.commit[:12]} is not on this machine any more")

    async def _snapshot(self, tree: Worktree, message: str) -> TreeSnapshot:
        """With a new index each time: a git that was killed leaves the lock of its index behind. Raises GitError."""
        tmp = self._root / "tmp"
        try:
            tmp.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=tmp, ignore_cleanup_errors=True) as folder:
                made = await tree_snapshot.taken(tree.path, message, Path(folder))
        except OSError as error:
            raise GitError(f"no snapshot: {error}") from error
        if made.embedded != tree.embedded:
            tree.embedded = made.embedded
            names = ", ".join(made.embedded) or "none any more"
            log.warning("%s: repositories inside, saved as files without their history: %s", tree.job_id, names)
        return made


def _checked(checkpoint: Checkpoint) -> Checkpoint:
    """Another factory said this: what is no plain ref and commit, git could take for an option."""
    if _ref.fullmatch(checkpoint.ref) and _commit.fullmatch(checkpoint.commit):
        return checkpoint
    raise WorkspaceError(f"checkpoint: found {checkpoint.ref!r}; allowed is a commit under refs/gigafactory")


def _removed(path: Path, by_way_of: Path) -> None:
    path.rename(by_way_of)
    shutil.rmtree(by_way_of, ignore_errors=True)
