"""Objects of an engine's repository, copied into the vault where they are not there yet."""

from __future__ import annotations

from collections.abc import Sequence

from factory.git.run import GitError
from factory.workspace.term_repository import TermRepository


async def own_objects(term: TermRepository, wanted: Sequence[str], known: Sequence[str]) -> None:
    """All that `wanted` reaches and `known` does not: no gc of the engine's can harm it then. Raises GitError."""
    told = "\n".join([*wanted, *(f"^{commit}" for commit in known)]).encode() + b"\n"
    try:
        await term.in_vault("rev-list", "--objects", "--quiet", "--stdin", stdin=told)
    except GitError:
        env = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(term.git_dir / "objects")}
        pack = str(term.vault / "objects" / "pack" / "pack")
        await term.in_vault("pack-objects", "-q", "--revs", "--delta-base-offset", pack, env=env, stdin=told)
