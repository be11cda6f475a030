"""The fleet's own refs in a source: where the work of terms is saved."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from factory.git.environment import factory_env
from factory.git.run import run
from factory.git.urls import reach_of

PUSHED_AT_ONCE = 500
_saved = re.compile(r"refs/gigafactory/([a-z0-9][a-z0-9_-]*)/[0-9]+")


async def fleet_refs(url: str) -> dict[str, list[str]]:
    """By job. Raises GitError."""
    reach = reach_of(url)
    said = await run(
        ["git", "ls-remote", "--", reach.url, "refs/gigafactory/*"], cwd=Path("/"), env=factory_env(reach.env)
    )
    found: dict[str, list[str]] = defaultdict(list)
    for line in os.fsdecode(said).splitlines():
        name = line.partition("\t")[2]
        if match := _saved.fullmatch(name):
            found[match[1]].append(name)
    return dict(found)


async def delete_refs(url: str, names: Sequence[str], copy: Path) -> None:
    """`copy`: any repository of the factory's own, without which git does not push. Raises GitError."""
    reach = reach_of(url)
    for start in range(0, len(names), PUSHED_AT_ONCE):
        argv = ["git", "push", "--quiet", "--no-verify", "--", reach.url]
        argv += [f":{name}" for name in names[start : start + PUSHED_AT_ONCE]]
        await run(argv, cwd=copy, env=factory_env({**reach.env, "GIT_DIR": str(copy)}))
