"""What the repositories inside a tree (submodules, and others that a job made) have and no remote of theirs has: one
bundle each, as a commit beside the snapshot.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.git.config import append_config
from factory.git.environment import factory_env
from factory.git.run import GitError, git, run
from factory.workspace.leading_out import leads_out
from factory.workspace.reading import (
    git_dir_of,
    linked_worktrees,
    module_dirs,
    pending,
    read_refs,
    repositories_inside,
    stashes,
)
from factory.workspace.snapshot import FIXED_DATES, add_all
from factory.workspace.term_repository import SAFE, TermRepository

BUNDLE_BYTES_MAX = 100 * 1024 * 1024  # a repository without a remote is bundled whole
INDEX = "index.json"
SIDE_CONFIG = (
    ("core", None, "bare", "false"),
    ("core", None, "fsmonitor", "false"),
    ("core", None, "hooksPath", "/dev/null"),
)
MODULES = ".git/modules/"
HEAD, FILES = "refs/beside/HEAD", "refs/beside/tree"


@dataclass(frozen=True)
class Bundles:
    """`commit`: with a file for each bundle, None where there is none. `sign`: equal for equal content. `notes`: what
    is in none, in sentences.
    """

    commit: str | None
    sign: str
    notes: tuple[str, ...]


async def bundle_inside(term: TermRepository, tmp: Path, tips: Sequence[str]) -> Bundles:
    """`tips`: the commits that are saved with it, in which there may be links. Raises GitError and OSError."""
    refs = await read_refs(term.git_dir)
    own = {linked.path.resolve() for linked in linked_worktrees(term.git_dir, refs)}
    entries: list[str] = []
    about: list[dict[str, Any]] = []
    notes: list[str] = []
    there = await asyncio.to_thread(list, _inside(term, own))
    links = await _links(term, tips) if there else {}
    for name, git_dir, inner in there:
        with tempfile.TemporaryDirectory(dir=tmp, ignore_cleanup_errors=True) as folder:
            known = term.tips_of(name)
            try:
                told = await _bundle(inner, git_dir, Path(folder), links.get(name, ()), known)
            except (GitError, OSError) as error:
                notes.append(f"the history of the repository {name} is not saved: {error}")
                continue
            if told is None:
                continue
            file, doc = told
            if file.stat().st_size > BUNDLE_BYTES_MAX:
                size = file.stat().st_size // 1024 // 1024
                limit = BUNDLE_BYTES_MAX // 1024 // 1024
                notes.append(f"the history of the repository {name} is not saved: {size} MB, at most {limit} MB are")
                continue
            blob = await term.in_vault("hash-object", "-w", "--", str(file))
        entries.append(f"100644 blob {blob}\t{len(about)}.bundle")
        about.append({"path": name, **doc})
    if not entries:
        return Bundles(None, "", tuple(notes))
    text = json.dumps(about)
    blob = await term.in_vault("hash-object", "-w", "--stdin", stdin=text.encode())
    listed = "\n".join([*entries, f"100644 blob {blob}\t{INDEX}"]) + "\n"
    tree = await term.in_vault("mktree", stdin=listed.encode())
    commit = await term.in_vault("commit-tree", tree, "-m", "beside", env=FIXED_DATES)
    return Bundles(commit, hashlib.sha256(text.encode()).hexdigest(), tuple(notes))


def _inside(term: TermRepository, own: set[Path]) -> Iterator[tuple[str, Path, Path | None]]:
    """Name, repository and work tree of each; without a work tree what is left of a submodule that was taken out."""
    seen = set()
    for inner in repositories_inside(term.path, own):
        git_dir = git_dir_of(inner)
        assert git_dir is not None
        seen.add(git_dir.resolve())
        if leads_out(git_dir, term.place) is not None:
            continue
        yield str(inner.relative_to(term.path)), git_dir, inner
    for git_dir in module_dirs(term.git_dir):
        if git_dir.resolve() not in seen:
            yield str(git_dir.relative_to(term.path)), git_dir, None


async def _bundle(
    inner: Path | None, git_dir: Path, folder: Path, linked: Collection[str], known: Collection[str]
) -> tuple[Path, dict[str, Any]] | None:
    """None where its remote has all of it. By a repository of our own, which borrows its objects. `known`: what a
    resumed term will have of its remote.
    """
    left = await read_refs(git_dir)
    if left.head is None:
        return None  # no history: its files are in the snapshot
    side = folder / "side.git"
    kind = "sha256" if len(left.head) == 64 else "sha1"
    await git(folder, "init", "--quiet", "--bare", "--template=", f"--object-format={kind}", str(side))
    append_config(side / "config", SIDE_CONFIG)
    (side / "info").mkdir(exist_ok=True)
    exclude = git_dir / "info" / "exclude"
    (side / "info" / "exclude").write_bytes(exclude.read_bytes() if exclude.is_file() else b"")
    env = {"GIT_DIR": str(side), "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((git_dir / "objects").resolve())}
    files = left.head
    if inner is not None:
        files = await _files_of(inner, git_dir, left.head, env, folder / "index")
    keep = {}
    for name, commit in left.refs.items():
        as_it_is = name.startswith(("refs/heads/", "refs/tags/", "refs/beside/")) or name == "refs/stash"
        if not name.startswith("refs/remotes/"):  # what it fetched is at the remote
            keep[name if as_it_is else f"refs/beside/other/{name.removeprefix('refs/')}"] = commit
    keep |= {f"refs/beside/pending/{name}": commit for name, commit in pending(git_dir).items()}
    keep |= {HEAD: left.head, FILES: files}
    keep |= {f"refs/beside/stash/{at}": commit for at, (commit, _) in enumerate(stashes(git_dir))}
    keep |= {f"refs/beside/link/{commit}": commit for commit in await _that_are_there(side, linked, env)}
    orders = "".join(f"update {name} {commit}\n" for name, commit in keep.items())
    await git(side, "update-ref", "--stdin", env=env, stdin=os.fsencode(orders))
    there = await _that_are_there(side, known, env)
    told = "\n".join(f"^{commit}" for commit in there).encode()
    if not await git(side, "rev-list", "--max-count=1", "--all", "--stdin", env=env, stdin=told or b"\n"):
        return None
    file = folder / "bundle"
    argv = ("-c", "pack.threads=1", "bundle", "create", "--quiet", str(file), "--all", "--stdin")
    await git(side, *argv, env=env, stdin=told or b"\n")
    return file, {"head": left.head, "branch": left.branch, "files": files, "refs": keep}


async def _links(term: TermRepository, tips: Sequence[str]) -> dict[str, set[str]]:
    """By path: every commit that a link of the term's own commits names; a submodule may have moved on since. None of
    them where the history is not whole.
    """
    env = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(term.git_dir / "objects")}
    told = "\n".join([*tips, f"^{term.base}"]).encode() + b"\n"
    argv = ("log", "--stdin", "--format=", "--raw", "--no-abbrev", "--no-renames", "-m", "-z")
    found: dict[str, set[str]] = {}
    try:
        fields = iter((await term.in_vault(*argv, env=env, stdin=told)).split("\0"))
    except GitError:
        return found
    for about in fields:
        words = about.split()
        if len(words) == 5 and words[0].startswith(":"):
            path = next(fields, "")
            if words[1] == "160000":
                found.setdefault(path, set()).add(words[3])
    return found


async def _that_are_there(side: Path, commits: Collection[str], env: Mapping[str, str]) -> list[str]:
    if not commits:
        return []
    told = "\n".join(sorted(commits)).encode() + b"\n"
    said = await git(side, "cat-file", "--batch-check", env=env, stdin=told)
    return [line.split()[0] for line in said.splitlines() if " commit " in line]


async def _files_of(inner: Path, git_dir: Path, head: str, env: dict[str, str], index: Path) -> str:
    """HEAD, or a commit on it of what is not committed."""
    if (git_dir / "index").is_file():
        shutil.copy2(git_dir / "index", index)
    env = {**env, "GIT_WORK_TREE": str(inner), "GIT_INDEX_FILE": str(index)}
    await add_all(inner, env, index.parent)
    tree = await git(inner, "write-tree", env=env)
    if tree == await git(inner, "rev-parse", f"{head}^{{tree}}", env=env):
        return head
    return await git(inner, "commit-tree", tree, "-p", head, "-m", "uncommitted", env=env | FIXED_DATES)


async def read_bundles(term: TermRepository, commit: str) -> list[dict[str, Any]]:
    """What a commit beside a checkpoint has, by path in the tree."""
    told: list[dict[str, Any]] = json.loads(await git(term.path, "cat-file", "blob", f"{commit}:{INDEX}"))
    return [{**doc, "blob": f"{commit}:{at}.bundle"} for at, doc in enumerate(told)]


async def unbundle(term: TermRepository, git_dir: Path, told: dict[str, Any], tmp: Path) -> None:
    """Its commits and branches into a repository that is there."""
    with tempfile.NamedTemporaryFile(dir=tmp) as file:
        file.write(await run(["git", "cat-file", "blob", told["blob"]], cwd=term.path, env=factory_env()))
        file.flush()
        specs = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", "+refs/beside/*:refs/beside/*")
        argv = ("fetch", "--quiet", "--update-head-ok", "--no-tags", "--", file.name, *specs)
        await git(git_dir, *argv, env={"GIT_DIR": str(git_dir), "GIT_WORK_TREE": "/nonexistent"})


async def restore_inside(term: TermRepository, told: Sequence[dict[str, Any]], tmp: Path) -> None:
    """Repositories as they were: HEAD and its branch, and what was not committed as staged."""
    for doc in told:
        if doc["path"].startswith(MODULES):  # its commits are there with the submodule, if the checkpoint still has one
            continue
        folder = term.path / doc["path"]
        git_dir = git_dir_of(folder)
        if git_dir is None:
            await git(term.path, "init", "--quiet", "--template=", str(folder))
            git_dir = folder / ".git"
            await unbundle(term, git_dir, doc, tmp)
        if doc["branch"]:
            await git(folder, "symbolic-ref", "HEAD", doc["branch"])
            await git(folder, *SAFE, "update-ref", "HEAD", doc["head"])
        else:
            await git(folder, *SAFE, "update-ref", "--no-deref", "HEAD", doc["head"])
        await git(folder, *SAFE, "read-tree", "--reset", "-u", doc["files"])


async def try_restore_inside(
    term: TermRepository, told: Sequence[dict[str, Any]], tmp: Path, progress: Callable[[str], None]
) -> None:
    """What cannot be restored stays in the checkpoint, and the term goes on without it: that is said."""
    for doc in told:
        try:
            await restore_inside(term, [doc], tmp)
        except (GitError, OSError) as error:
            progress(f"the repository {doc['path']} could not be restored; it is in the checkpoint: {error}")
