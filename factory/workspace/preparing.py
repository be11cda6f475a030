"""A term's repositories from its grant: looked up, fetched, cloned, resumed, with submodules."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from factory.git.run import git
from factory.git.urls import Reach
from factory.ports import Fault, Place, WorkspaceError
from factory.workspace.bundles import read_bundles, try_restore_inside
from factory.workspace.cache import REFSPECS, Caches
from factory.workspace.folder_remotes import FolderRemotes, fetch_folder_remotes, remotes_of, tell_uncommitted
from factory.workspace.looking import look
from factory.workspace.reading import read_refs
from factory.workspace.remote import RemoteRefs, Start, also_a_tag, list_refs, resolve
from factory.workspace.resuming import resume
from factory.workspace.source import Source, source_of
from factory.workspace.submodules import Submodules
from factory.workspace.term_repository import SAFE, TermRepository, clone, give_identity, make_vault
from runtime.queues import KeyedQueues
from schemas.messages import Grant
from schemas.work import Checkpoint

FOLDERS_REFS = "refs/remotes/*"

Progress = Callable[[str], None]
_ref = re.compile(r"refs/gigafactory/[a-z0-9_-]+/[0-9]+")
_commit = re.compile(r"[0-9a-f]{40,64}")


class Preparing:
    """`own`: the repository where the work of trees without one is pushed, and resumed from."""

    def __init__(self, root: Path, workspace_map: Mapping[str, Path], place: Place | None = None) -> None:
        self._place = place
        self._map = workspace_map
        self._caches = Caches(root / "cache")
        self._own = root / "repos" / "own"
        self._tmp = root / "tmp"
        self._queues = KeyedQueues()

    def sources(self) -> dict[str, Path]:
        return self._caches.sources()

    async def prepare(self, grant: Grant, folder: Path, progress: Progress) -> TermRepository:
        """In `folder`, which is there and empty. Raises WorkspaceError, GitError and OSError."""
        checkpoint = _checked(grant.checkpoint) if grant.checkpoint is not None else None
        source = await source_of(grant, self._map)
        if source is None:
            return await self._scratch(grant, folder, checkpoint, progress)
        return await self._from(source, grant, folder, checkpoint, progress)

    async def _from(
        self, source: Source, grant: Grant, folder: Path, checkpoint: Checkpoint | None, progress: Progress
    ) -> TermRepository:
        progress(f"looking at {source.url}")
        there = await list_refs(source.reach, *([FOLDERS_REFS] if source.folder else []))
        if "refs/heads/fleet" in there.refs:
            sentence = f"{source.url} has a branch `fleet`, beside which git can have none of fleet/JOB/TERM: rename it"
            raise WorkspaceError(sentence, Fault.MANIFEST)
        remotes = await remotes_of(source.folder) if source.folder else FolderRemotes()
        term = await self._cloned(source, grant, folder, there, remotes, progress)
        if source.folder:
            await tell_uncommitted(source.folder, progress)
            await fetch_folder_remotes(term, remotes, progress)
        bundles = await resume(term, checkpoint) if checkpoint is not None else None
        saved = await read_bundles(term, bundles) if bundles is not None else []
        await Submodules(term, self._caches, self._tmp, saved, progress).populate(term.path, source.url)
        await try_restore_inside(term, saved, self._tmp, progress)
        term.work_dir = term.path / source.inside
        if not term.work_dir.is_dir() or not term.work_dir.resolve().is_relative_to(term.path.resolve()):
            raise WorkspaceError(f"{grant.cwd}: there is no such folder at {grant.ref or 'HEAD'}", Fault.MANIFEST)
        await self._note_beginning(term, resumed=checkpoint is not None)
        return term

    async def _cloned(
        self,
        source: Source,
        grant: Grant,
        folder: Path,
        there: RemoteRefs,
        remotes: FolderRemotes,
        progress: Progress,
    ) -> TermRepository:
        refspecs = (*REFSPECS, f"+{FOLDERS_REFS}:{FOLDERS_REFS}") if source.folder else REFSPECS
        local = source.folder is not None

        async def make(cache: Path) -> TermRepository:
            start = await self._start(source, grant, there, cache)
            term = self._term(folder, source.reach, grant, base=start.commit, remote=source.url, local=local)
            progress(f"checking out {start.branch or start.commit[:12]}{also_a_tag(grant.ref, there)}")
            await clone(term, cache, source.remote, there, start, tuple(remotes.config))
            return term

        progress(f"fetching {source.url}")
        leftovers = (folder / "tree", folder / "vault.git")
        return await self._caches.used(source.reach, there, refspecs, progress, make, leftovers)

    async def _start(self, source: Source, grant: Grant, there: RemoteRefs, cache: Path) -> Start:
        """A job that is resumed needs its `ref` no more: it may have been merged and deleted meanwhile."""
        try:
            return await resolve(grant.ref, source.reach, there, cache)
        except WorkspaceError:
            if grant.checkpoint is None:
                raise
        return await resolve(None, source.reach, there, cache)

    async def _scratch(
        self, grant: Grant, folder: Path, checkpoint: Checkpoint | None, progress: Progress
    ) -> TermRepository:
        """An empty tree; resumed, the one of the term before, whose commit lies on this machine only."""
        async with self._queues.turn(self._own):
            if not (self._own / "HEAD").exists():
                self._own.parent.mkdir(parents=True, exist_ok=True)
                await git(self._own.parent, "init", "--quiet", "--bare", "--template=", str(self._own))
        term = self._term(folder, Reach(str(self._own), {}), grant, base="", remote=None, local=True)
        await git(folder, "init", "--quiet", str(term.path))
        await give_identity(term.path)
        await git(term.path, *SAFE, "commit", "--quiet", "--allow-empty", "--message", "an empty tree")
        term.base = await git(term.path, "rev-parse", "HEAD")
        await make_vault(term)
        await term.in_vault("fetch", "--quiet", "--no-tags", "--", str(term.path), "+HEAD:refs/keep/base")
        term.granted = (await read_refs(term.git_dir)).refs
        bundles = await resume(term, checkpoint) if checkpoint is not None else None
        saved = await read_bundles(term, bundles) if bundles is not None else []
        await try_restore_inside(term, saved, self._tmp, progress)
        await self._note_beginning(term, resumed=checkpoint is not None)
        return term

    def _term(
        self, folder: Path, reach: Reach, grant: Grant, *, base: str, remote: str | None, local: bool
    ) -> TermRepository:
        path = folder / "tree"
        term = TermRepository(
            path=path,
            work_dir=path,
            remote=remote,
            job_id=grant.job_id,
            lease_epoch=grant.lease_epoch,
            base=base,
            local=local,
            folder=folder,
            reach=reach,
            retries_used=grant.retries_used,
        )
        if (place := self._place) is not None:
            term.place = lambda path: place(path, term)
        return term

    async def _note_beginning(self, term: TermRepository, *, resumed: bool) -> None:
        """What a checkpoint had is pushed already: a resumed term has nothing new."""
        term.last_head = term.base
        if resumed:
            seen = await look(term, "look", self._tmp)
            if seen.snapshot == term.base:
                term.pushed, term.last_head = seen.pushed, seen.head or term.base


def _checked(checkpoint: Checkpoint) -> Checkpoint:
    """Another factory said this: what is no plain ref and commit, git could take for an option."""
    if _ref.fullmatch(checkpoint.ref) and _commit.fullmatch(checkpoint.commit):
        return checkpoint
    sentence = f"checkpoint: found {checkpoint.ref!r}; allowed is a commit under refs/gigafactory"
    raise WorkspaceError(sentence, Fault.MANIFEST)
