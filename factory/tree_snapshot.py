"""A whole tree as one commit: untracked files too, and the files of repositories that a job made inside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from factory.git import git

GITLINK = "160000"
NAMES_MAX = 500  # on one command line


class TreeSnapshot(NamedTuple):
    """`content`: the tree's id. `embedded`: repositories inside, whose files are in it and whose history is not."""

    content: str
    head: str
    commit: str
    embedded: tuple[str, ...]


async def git_in(path: Path, *args: str, env: Mapping[str, str] | None = None) -> str:
    """git on this very tree: if a job removes its `.git`, git must not find somebody else's further up."""
    return await git(path, *args, env={"GIT_CEILING_DIRECTORIES": str(path.parent), **(env or {})})


async def taken(path: Path, message: str, indexes: Path) -> TreeSnapshot:
    """Leaves the tree's own index alone. `indexes`: an empty folder. Raises GitError and OSError."""
    head = await git_in(path, "rev-parse", "HEAD")
    content, embedded = await _written(path, path, indexes, head)
    if content == await git_in(path, "rev-parse", f"{head}^{{tree}}"):
        return TreeSnapshot(content, head, head, embedded)
    return TreeSnapshot(content, head, await git_in(path, "commit-tree", content, "-p", head, "-m", message), embedded)


async def only_here(path: Path, embedded: tuple[str, ...]) -> list[str]:
    """Repositories inside the tree with something that neither the snapshot nor a remote of theirs has."""
    found = [name for name in embedded if await _has_unpushed(path / name)]
    for line in (await git_in(path, "ls-files", "--stage", "-z")).split("\0"):
        about, _, name = line.partition("\t")
        if about.startswith(GITLINK) and (path / name / ".git").exists():
            inside = path / name
            if await git_in(inside, "status", "--porcelain") or await _has_unpushed(inside):
                found.append(name)
    return found


async def _has_unpushed(repository: Path) -> bool:
    return bool(await git_in(repository, "rev-list", "--max-count=1", "--all", "--not", "--remotes"))


async def _add_forced(path: Path, env: Mapping[str, str]) -> None:
    """What a job added to its own index against an ignore rule, and did not commit: it wants that kept."""
    forced = await git_in(path, "ls-files", "--cached", "--ignored", "--exclude-standard", "-z")
    names = [name for name in forced.split("\0") if name and (path / name).is_file()]
    for begin in range(0, len(names), NAMES_MAX):
        await git_in(path, "add", "--force", "--", *map(_literal, names[begin : begin + NAMES_MAX]), env=env)


def _literal(name: str) -> str:
    return f":(top,literal){name}"


async def _written(path: Path, root: Path, indexes: Path, base: str | None) -> tuple[str, tuple[str, ...]]:
    """The id of `root`'s content in the objects of `path`, and the repositories in it, by their path in `path`.

    git would take an embedded repository for a link to a commit of it, and refuse the whole tree where it has none.
    So its files are written as a tree of their own, which is then put in its place; what they ignore is theirs to say.
    """
    env = {"GIT_INDEX_FILE": str(indexes / hashlib.sha256(str(root).encode()).hexdigest())}
    if root != path:
        env |= {"GIT_DIR": await git_in(path, "rev-parse", "--absolute-git-dir"), "GIT_WORK_TREE": str(root)}
    await git_in(root, "read-tree", base or "--empty", env=env)
    others = await git_in(root, "ls-files", "--others", "--exclude-standard", "-z", env=env)
    inside = [name.rstrip("/") for name in others.split("\0") if name.endswith("/")]
    without = [f":(exclude,top,literal){name}" for name in inside]
    await git_in(root, "add", "--all", "--", ".", *without, env=env)
    if root == path:
        await _add_forced(path, env)
    embedded: list[str] = []
    for name in inside:
        tree, deeper = await _written(path, root / name, indexes, None)
        await git_in(root, "read-tree", f"--prefix={name}/", tree, env=env)
        embedded += [str((root / name).relative_to(path)), *deeper]
    return await git_in(root, "write-tree", env=env), tuple(embedded)
