"""Trees that an older release made as worktrees of one repository for all terms: kept, as that release would."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from factory.git.run import GitError, git

log = logging.getLogger(__name__)


async def set_aside_worktrees(root: Path) -> int:
    """How many went to quarantine. Scratch work is pushed to the factory's own repository, from which it is resumed."""
    moved = 0
    for path in sorted((root / "worktrees").glob("*/*")):
        if not (path.is_dir() and path.name.isdigit()):
            continue
        kept = root / "quarantine" / path.parent.name / path.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        if (path / ".git").is_dir():
            own = root / "repos" / "own"
            with contextlib.suppress(GitError, OSError):
                own.parent.mkdir(parents=True, exist_ok=True)
                await git(own.parent, "init", "--quiet", "--bare", str(own))
                await git(path, "push", "--quiet", "--no-verify", str(own), "refs/gigafactory/*:refs/gigafactory/*")
        try:
            common = path / await git(path, "rev-parse", "--git-common-dir")
            await git(common, "worktree", "move", "--force", "--force", str(path), str(kept))
        except GitError:  # its own repository, or none
            path.rename(kept)
        log.info("the tree of an older release is kept in %s", kept)
        moved += 1
    return moved
