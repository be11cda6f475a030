"""All that a term has made, as one commit under one ref: the snapshot, what was kept before it, and what is beside it.

K = the snapshot's tree, with parents (snapshot S, the K before, each commit beside), and a line of JSON that says what
is what.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from factory.git.environment import IDENTITY, factory_env
from factory.git.run import GitError, is_machines, run
from factory.ports import Saved, TreeError
from factory.workspace import lfs
from factory.workspace.looking import Look, look
from factory.workspace.term_repository import TermRepository, push


async def save(term: TermRepository, message: str, tmp: Path) -> Saved | None:
    """None: nothing new since the last push, or since the term began. Raises GitError and OSError."""
    try:
        seen = await look(term, message, tmp)
    except GitError as error:
        if isinstance(error, TreeError) or is_machines(error):
            raise
        raise TreeError(str(error)) from error  # what git stumbles over there, the job has put there
    term.notes = seen.notes
    if is_saved(term, seen):
        return None
    kept = await _join(term, seen, message)
    await term.in_vault("update-ref", "refs/keep/k", kept)
    if term.remote is not None:
        known = [one for one in (term.base, term.kept) if one]
        await lfs.upload(term.vault, term.reach.url, kept, term.branch, term.reach.env, known)
    await push(term, "--force", "--", term.reach.url, f"{kept}:{term.ref}", env=term.reach.env)
    term.kept, term.kept_at, term.snapshot, term.pushed = kept, term.ref, seen.snapshot, seen.pushed
    term.last_head = seen.head or term.last_head
    return Saved(seen.snapshot, seen.tree, term.ref, term.local)


def is_saved(term: TermRepository, seen: Look) -> bool:
    if term.pushed is not None:
        return seen.pushed == term.pushed
    return seen.snapshot == term.base and not seen.beside


async def _join(term: TermRepository, seen: Look, message: str) -> str:
    tips = await _peeled(term, list(seen.beside.values()))
    about: dict[str, Any] = {
        "head": seen.head,
        "branch": seen.branch,
        "snapshot": seen.snapshot,
        "before": term.kept,
        "retriesUsed": term.retries_used,
        "beside": [[os.fsencode(name).decode("latin-1"), commit] for name, commit in seen.beside.items()],
        "tags": {
            commit: await _text_of_tag(term, commit)
            for commit, tip in zip(seen.beside.values(), tips, strict=True)
            if commit != tip  # an annotated tag is no parent: its text brings it back under the same id
        },
    }
    parents = dict.fromkeys([seen.snapshot, *([term.kept] if term.kept else []), *tips])
    tree = await term.in_vault("rev-parse", f"{seen.snapshot}^{{tree}}")
    who = f"{IDENTITY['NAME']} <{IDENTITY['EMAIL']}> {int(time.time())} +0000"
    head = [f"tree {tree}", *(f"parent {parent}" for parent in parents), f"author {who}", f"committer {who}"]
    text = os.fsencode("\n".join([*head, "", message, "", json.dumps(about), ""]))
    return await term.in_vault("hash-object", "-t", "commit", "-w", "--stdin", stdin=text)  # parents may be thousands


async def _text_of_tag(term: TermRepository, commit: str) -> str:
    """Byte by byte: it must give the same id again."""
    env = factory_env({"GIT_DIR": str(term.vault)})
    return (await run(["git", "cat-file", "tag", commit], cwd=term.vault, env=env)).decode("latin-1")


async def _peeled(term: TermRepository, commits: list[str]) -> list[str]:
    if not commits:
        return []
    told = "\n".join(f"{commit}^{{commit}}" for commit in commits).encode() + b"\n"
    said = await term.in_vault("cat-file", "--batch-check=%(objectname)", stdin=told)
    return said.splitlines()
