"""What there is in a tree, and what a source has of it, by git's own porcelain and the file system: nothing here knows
how a factory saves.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

Doc = dict[str, Any]
QUIET = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false")
SECRET = b"SECRET"
LFS = b"version https://git-lfs"
NOT_ITS_OWN = ("refs/remotes/", "refs/stash", "refs/resume/", "refs/bisect/", "refs/replace/")


def git(where: Path, *args: str, env: dict[str, str] | None = None, stdin: bytes = b"") -> bytes:
    """Nothing where it fails: what cannot be read is not there."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    clean |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    argv = ["git", *QUIET, *args]
    done = subprocess.run(argv, cwd=where, env=clean | (env or {}), input=stdin, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""


def of_tree(tree: Path, base: str) -> Doc:
    """JSON-ready. Names are in latin-1, so that each byte is itself."""
    has_git = (tree / ".git" / "HEAD").is_file()
    found = files_of(tree)
    worktrees = {}
    if has_git:
        for path in _worktrees(tree):
            if path != tree and path.is_dir():
                worktrees[str(path)] = files_of(path)
    return {
        "files": found,
        "commits": sorted(_commits(tree, base)) if has_git else [],
        "worktrees": worktrees,
        "inner": _inner(tree, set(worktrees)),
        "secrets": _secrets(tree, {blob for _, blob, _ in found}),
    }


def of_beginning(tree: Path) -> Doc:
    """What a new term finds, of which nothing may be another's."""
    refs = git(tree, "for-each-ref", "--format=%(refname) %(objectname)").decode().split("\n")
    hooks = [path.name for path in (tree / ".git" / "hooks").glob("*")]
    return {
        "refs": dict(line.split(" ") for line in refs if line),
        "head": git(tree, "rev-parse", "HEAD").decode().strip(),
        "status": git(tree, "status", "--porcelain").decode(errors="replace"),
        "hooks": hooks,
        "config": (tree / ".git" / "config").read_text(errors="replace"),
        "files": files_of(tree),
    }


def files_of(top: Path) -> list[tuple[str, str, str]]:
    """(mode, blob, name) of what `git add --all` would take, but for what goes through a filter."""
    env: dict[str, str] = {}
    listed = git(top, "ls-files", "-z", "-t", "-s")
    if not listed and (top / ".git").exists():
        env = {"GIT_INDEX_FILE": "/nonexistent/index"}
    names: set[bytes] = set()
    hidden: set[bytes] = set()
    for entry in listed.split(b"\0"):
        about, _, name = entry.partition(b"\t")
        words = about.split(b" ")
        if not name or words[1] == b"160000":
            continue
        (hidden if words[0] in (b"S", b"s") else names).add(name)
    names |= set(git(top, "ls-files", "-z", "--others", "--exclude-standard", env=env).split(b"\0")) - {b""}
    if not (top / ".git").exists():
        names = {
            os.path.relpath(os.path.join(folder, file), os.fsencode(top))
            for folder, _, files in os.walk(os.fsencode(top))
            for file in files
        }
    filtered = _filtered(top, names, env)
    found = []
    for name in sorted(names - filtered - hidden):
        if name.endswith(b"/"):
            continue
        made = _blob(os.path.join(os.fsencode(top), name))
        if made is not None:
            found.append((made[0], made[1], name.decode("latin-1")))
    return found


def _filtered(top: Path, names: set[bytes], env: dict[str, str]) -> set[bytes]:
    if not any(name.rpartition(b"/")[2] == b".gitattributes" for name in names):
        return set()
    said = git(top, "check-attr", "-z", "--stdin", "filter", env=env, stdin=b"\0".join(sorted(names))).split(b"\0")
    return {
        name for name, value in zip(said[0::3], said[2::3], strict=False) if value not in (b"unspecified", b"unset")
    }


def _blob(path: bytes) -> tuple[str, str] | None:
    if os.path.islink(path):
        mode, data = "120000", os.readlink(path)
    elif os.path.isfile(path):
        mode = "100755" if os.stat(path).st_mode & 0o100 else "100644"
        with open(path, "rb") as file:
            data = file.read()
    else:
        return None
    return mode, hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _worktrees(tree: Path) -> list[Path]:
    lines = git(tree, "worktree", "list", "--porcelain").split(b"\n")
    return [Path(os.fsdecode(line.removeprefix(b"worktree "))) for line in lines if line.startswith(b"worktree ")]


def _tips(where: Path) -> set[str]:
    tips = set()
    for line in git(where, "for-each-ref", "--format=%(objectname) %(refname)").decode().splitlines():
        commit, _, name = line.partition(" ")
        if not name.startswith(NOT_ITS_OWN):
            tips.add(commit)
    tips |= set(git(where, "log", "-g", "--format=%H", "refs/stash").decode().split())
    tips |= set(git(where, "rev-parse", "--verify", "-q", "HEAD").decode().split())
    for line in git(where, "worktree", "list", "--porcelain").decode(errors="replace").splitlines():
        if line.startswith("HEAD ") and line[5:].strip("0"):
            tips.add(line[5:])
    return tips


def _commits(where: Path, base: str) -> set[str]:
    tips = _tips(where)
    if not tips:
        return set()
    known = (
        ["--not", base]
        if base and git(where, "cat-file", "-e", base) == b"" and git(where, "cat-file", "-t", base)
        else []
    )
    return set(git(where, "rev-list", *sorted(tips), *known).decode().split())


def _inner(tree: Path, worktrees: set[str]) -> Doc:
    """By path: the commits of each repository inside, those of submodules among them, taken out or not."""
    found: Doc = {}
    for folder, names, files in os.walk(tree):
        here = Path(folder)
        if here != tree and (".git" in names or ".git" in files) and str(here) not in worktrees:
            found[str(here.relative_to(tree))] = {"commits": sorted(_tips(here)), "files": files_of(here)}
        if ".git" in names:
            names.remove(".git")
    for head in (tree / ".git" / "modules").rglob("HEAD"):
        if (head.parent / "objects").is_dir():
            commits = git(head.parent, "rev-list", "--all", env={"GIT_DIR": str(head.parent)}).decode().split()
            found[str(head.parent.relative_to(tree))] = {"commits": commits, "files": []}
    return found


def _secrets(tree: Path, saved: set[str]) -> list[str]:
    """Blobs of files that hold a secret, and that nobody asked to be saved."""
    found = []
    for folder, names, files in os.walk(tree):
        if ".git" in names:
            names.remove(".git")
        for name in files:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    has_secret = SECRET in file.read(1 << 16)
                made = _blob(os.fsencode(path))
                if has_secret and made is not None and made[1] not in saved:
                    found.append(made[1])
    return found


def objects_of(source: Path, *names: str) -> dict[str, str]:
    """Every object that these refs reach (patterns): id -> a path of it."""
    refs = git(source, "for-each-ref", "--format=%(objectname)", *names).decode().split()
    if not refs:
        return {}
    told = "\n".join(refs).encode() + b"\n"
    lines = git(source, "rev-list", "--objects", "--stdin", stdin=told).split(b"\n")
    found = {line[:40].decode(): line[41:].decode("latin-1") for line in lines if line}
    return found | dict.fromkeys(refs, "")


def refs_of(source: Path) -> dict[str, str]:
    lines = git(source, "for-each-ref", "--format=%(refname) %(objectname)").decode().splitlines()
    return dict(line.split(" ") for line in lines)


def bundled(source: Path, origins: list[Path], job_id: str, tmp: Path) -> set[str]:
    """Objects in the bundles that a job's checkpoints carry, of the repositories inside its trees."""
    side = tmp / f"bundles-{job_id}.git"
    git(tmp, "init", "-q", "--bare", str(side))
    (side / "objects" / "info").mkdir(parents=True, exist_ok=True)
    (side / "objects" / "info" / "alternates").write_text("".join(f"{one}/objects\n" for one in (source, *origins)))
    for number, blob in enumerate(_bundle_blobs(source, job_id)):
        file = tmp / f"{job_id}-{number}.bundle"
        file.write_bytes(git(source, "cat-file", "blob", blob))
        git(side, "fetch", "-q", str(file), f"+refs/*:refs/b/{number}/*")
        file.unlink()
    return set(objects_of(side, "refs/b"))


def _bundle_blobs(source: Path, job_id: str) -> list[str]:
    there = objects_of(source, f"refs/gigafactory/{job_id}")
    return [blob for blob, path in there.items() if path.endswith(".bundle")]
