"""A new term goes on where a checkpoint was: HEAD and its branch as they were, what was not committed as staged."""

from __future__ import annotations

import json
import os
from typing import Any

from factory.git.environment import factory_env
from factory.git.run import GitError, git, run
from factory.ports import Fault, WorkspaceError
from factory.workspace.looking import BUNDLES, PENDING, STASH, WORKTREES
from factory.workspace.objects import own_objects
from factory.workspace.term_repository import SAFE, TermRepository
from schemas.work import Checkpoint

FETCHED = "refs/resume/k"


async def resume(term: TermRepository, checkpoint: Checkpoint) -> str | None:
    """In a fresh tree. Gives the commit that has the bundles of the repositories inside, if there is one.

    Raises WorkspaceError where the checkpoint is gone, and GitError.
    """
    argv = ["git", "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", term.reach.url]
    try:
        await run([*argv, f"+{checkpoint.ref}:{FETCHED}"], cwd=term.path, env=factory_env(term.reach.env))
    except GitError as error:
        where = "on this machine" if term.remote is None else f"at {term.reach.url}"
        sentence = f"the checkpoint {checkpoint.commit[:12]} is not {where} any more: {error}"
        raise WorkspaceError(sentence, Fault.REMOTE) from error
    k = await git(term.path, "rev-parse", FETCHED)
    found, about = await _join_of(term, k, checkpoint.commit)
    await git(term.path, *SAFE, "checkout", "--quiet", "--detach", checkpoint.commit)
    await git(term.path, "update-ref", f"refs/heads/{term.branch}", str(about.get("head") or checkpoint.commit))
    await own_objects(term, [found], [term.base])
    await term.in_vault("update-ref", "refs/keep/k", found)
    term.base = term.snapshot = checkpoint.commit
    term.kept, term.kept_at = found, checkpoint.ref
    anew = term.retries_used > about.get("retriesUsed", 0)
    bundles = await _restore_beside(term, about, checkpoint, anew=anew) if about else None
    await _restore_head(term, about, anew=anew)
    await git(term.path, "update-ref", "-d", FETCHED)
    return bundles


async def _join_of(term: TermRepository, newest: str, snapshot: str) -> tuple[str, dict[str, Any]]:
    """The commit that was made of `snapshot`, and what it says. The coordinator may know of an earlier one than the
    newest; an older release made none, and said nothing."""
    k: str | None = newest
    while k is not None:
        about = _told(await git(term.path, "log", "-1", "--format=%b", k))
        if about.get("snapshot") == snapshot:
            return k, about
        k = about.get("before")
    return newest, {}


def _told(body: str) -> dict[str, Any]:
    try:
        told = json.loads(body.strip().splitlines()[-1])
        return told if isinstance(told, dict) else {}
    except (ValueError, IndexError):
        return {}


async def _restore_head(term: TermRepository, about: dict[str, Any], *, anew: bool) -> None:
    """What was not committed is not committed again: only HEAD goes back, the index stays. `anew`: the attempt failed,
    so that the next one begins on the branch of the term, and may use the names that the last one used.
    """
    branch, head = about.get("branch"), about.get("head")
    if anew and branch is not None and head is not None and not branch.startswith("refs/heads/fleet/"):
        await git(term.path, *SAFE, "update-ref", _aside(branch), head)
        branch = None
    if anew and about:
        await git(term.path, "symbolic-ref", "HEAD", f"refs/heads/{term.branch}")
        return
    if about and branch is None and head is not None:
        await git(term.path, *SAFE, "update-ref", "--no-deref", "HEAD", head)
        return
    if branch is None or branch.startswith("refs/heads/fleet/"):
        branch = f"refs/heads/{term.branch}"
    elif head is not None:
        await git(term.path, *SAFE, "update-ref", branch, head)
    await git(term.path, "symbolic-ref", "HEAD", branch)


async def _restore_beside(
    term: TermRepository, about: dict[str, Any], checkpoint: Checkpoint, *, anew: bool
) -> str | None:
    bundles = None
    was = f"refs/heads/fleet/{checkpoint.ref.removeprefix('refs/gigafactory/')}"
    for text in about["tags"].values():
        await git(term.path, "hash-object", "-t", "tag", "-w", "--stdin", stdin=text.encode("latin-1"))
    for told, commit in reversed(about["beside"]):
        name = os.fsdecode(told.encode("latin-1"))
        if name == BUNDLES:
            bundles = str(commit)
            continue
        if anew and name.startswith("refs/") and name != was:
            name = _aside(name)
        try:
            await _restore(term, name, commit, was)
        except GitError:  # another ref stands in its way: it is not lost, and may be looked for
            await git(term.path, "update-ref", f"refs/resumed/{commit}", commit)
    return bundles


def _aside(name: str) -> str:
    """Such as `resumed/fix` for the branch `fix`: what a failed attempt made is there, and in nobody's way."""
    kind, _, rest = name.removeprefix("refs/").partition("/")
    return f"refs/{kind}/resumed/{rest}"


async def _restore(term: TermRepository, name: str, commit: str, was: str) -> None:
    if name == was:
        await git(term.path, "update-ref", f"refs/heads/{term.branch}", commit)
    elif name.startswith("refs/"):
        await git(term.path, "update-ref", name, commit)
    elif name.startswith(STASH):
        said = name.removeprefix(STASH).partition("/")[2]
        await git(term.path, "stash", "store", "--quiet", "-m", said, commit)
    else:
        assert name.startswith((WORKTREES, PENDING))
        await git(term.path, "update-ref", f"refs/heads/resumed/{name}", commit)
