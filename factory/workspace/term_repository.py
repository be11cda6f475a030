"""The two repositories of a term. `tree`, the engine's: complete by itself, with branches, tags, stash and config of
its own. `vault.git`, the factory's: the same packs under a configuration of its own; snapshots and pushes are made
there, and never by the configuration that an engine may have left.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from factory.git.config import Entry, append_config
from factory.git.environment import IDENTITY, factory_env
from factory.git.run import GitError, git, run
from factory.git.urls import Reach
from factory.ports import Fault, WorkspaceError, Worktree
from factory.workspace import lfs
from factory.workspace.leading_out import as_it_is
from factory.workspace.reading import read_refs
from factory.workspace.remote import FLEET_HEADS, RemoteRefs, Start

_lacks_objects = re.compile(r"bad (tree )?object|missing (necessary objects|blob|tree|commit)|unpacker error")
SAFE = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.alternateRefsCommand=:")
VAULT_CONFIG: tuple[Entry, ...] = (
    ("core", None, "hooksPath", "/dev/null"),
    ("core", None, "fsmonitor", "false"),
    ("core", None, "safecrlf", "false"),
    (
        "diff",
        None,
        "ignoreSubmodules",
        "dirty",
    ),  # to look for dirt git would start one that obeys the submodule's config
    ("gc", None, "auto", "0"),
    ("push", None, "gpgSign", "false"),
    ("push", None, "followTags", "false"),
    ("push", None, "recurseSubmodules", "no"),
    ("push", None, "negotiate", "true"),  # else a base that is no tip any more is sent again as a whole
    ("lfs", None, "locksverify", "false"),
    ("advice", None, "addEmbeddedRepo", "false"),
)


class Pushed(NamedTuple):
    """What a push was made of: equal ones need no other push."""

    tree: str
    head: str | None
    branch: str | None
    beside: tuple[tuple[str, str], ...]


@dataclass(kw_only=True)
class TermRepository(Worktree):
    """`folder`: of the term. `granted`: the refs that its repository began with. `snapshot`: the last one, `kept`: the
    commit that joins it with all that is beside it and with those before it. `submodules`: path -> URL, at the start,
    and `submodule_tips` what their remotes had then.
    `kept_at`: the ref that has it at the source. `place`: where
    that is which the term's programs have at a path, None where they have nothing.
    """

    folder: Path
    reach: Reach
    granted: Mapping[str, str] = field(default_factory=dict)
    snapshot: str | None = None
    kept: str | None = None
    kept_at: str | None = None
    pushed: Pushed | None = None
    last_head: str | None = None
    submodules: dict[str, str] = field(default_factory=dict)
    submodule_tips: dict[str, frozenset[str]] = field(default_factory=dict)
    retries_used: int = 0
    place: Callable[[Path], Path | None] = as_it_is

    def tips_of(self, name: str) -> frozenset[str]:
        """What the remote of a submodule had at the start, by its path or that of its repository in `.git/modules`."""
        known = self.submodule_tips.get(name)
        return known if known is not None else frozenset()

    @property
    def vault(self) -> Path:
        return self.folder / "vault.git"

    @property
    def open_places(self) -> tuple[Path, ...]:
        return (self.folder,)  # `git worktree add ../other` is usual

    @property
    def closed_places(self) -> tuple[Path, ...]:
        return (self.vault,)

    @property
    def git_dir(self) -> Path:
        return self.path / ".git"

    async def in_vault(self, *args: str, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> str:
        return await git(self.vault, *args, env={"GIT_DIR": str(self.vault), **(env or {})}, stdin=stdin)


async def push(term: TermRepository, *argv: str, env: Mapping[str, str]) -> None:
    """From the vault. Negotiating spares a base that is no tip any more from being sent again; but a server then also
    answers for a commit whose push was broken off before its tree had come, and refuses what builds on it. Raises
    GitError.
    """
    words = ("push", "--quiet", "--no-verify", *argv)
    try:
        await term.in_vault(*words, env=env)
    except GitError as error:
        if not _lacks_objects.search(str(error)):
            raise
        await term.in_vault("-c", "push.negotiate=false", *words, env=env)


async def make_vault(term: TermRepository) -> None:
    """Beside a tree that is there; also a second time, where an engine removed it."""
    shutil.rmtree(term.vault, ignore_errors=True)
    kind = "sha256" if len(term.base) == 64 else "sha1"
    init = ("init", "--quiet", "--bare", "--template=", f"--object-format={kind}")
    await git(term.folder, *init, str(term.vault))
    for name in ("info", "hooks"):
        (term.vault / name).mkdir(exist_ok=True)
    link_packs(term.git_dir / "objects" / "pack", term.vault / "objects" / "pack")
    if (shallow := term.git_dir / "shallow").exists():
        shutil.copy(shallow, term.vault / "shallow")
    config: list[Entry] = [*VAULT_CONFIG, ("lfs", None, "storage", str(term.git_dir / "lfs"))]
    if term.reach.url:
        config.append(("remote", "origin", "url", term.reach.url))
    append_config(term.vault / "config", config)


def link_packs(source: Path, target: Path) -> None:
    """With a `.keep` for each on both sides: gc and repack handle what a term itself made, and nothing else."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.glob("*"):
        there = target / file.name
        if file.suffix not in (".pack", ".idx", ".rev") or there.exists():
            continue
        if file.suffix == ".pack":
            file.with_suffix(".keep").touch()
            there.with_suffix(".keep").touch()
        try:
            os.link(file, there)
        except OSError:
            shutil.copy(file, there)


async def clone(
    term: TermRepository, cache: Path, remote: str, there: RemoteRefs, start: Start, remotes: tuple[Entry, ...] = ()
) -> None:
    """Both repositories, checked out at `start` on the branch that the term is published as. Under the cache's lock.

    A plain `git push` goes to that branch, never to the one that the term began from. Raises GitError.
    """
    argv = ("clone", "--quiet", "--no-checkout", "--template=", "--no-recurse-submodules", "--origin", remote)
    await git(term.folder, *argv, "--", str(cache), str(term.path))  # by links, or copies on another file system
    for name in ("info", "hooks"):
        (term.git_dir / name).mkdir(exist_ok=True)  # no template made them, and agents write there
    await git(term.path, "remote", "set-url", remote, term.reach.url)
    config: list[Entry] = [("remote", remote, "fetch", "^refs/heads/fleet/*"), ("push", None, "default", "current")]
    if start.branch is not None:
        config += [
            ("branch", term.branch, "remote", remote),
            ("branch", term.branch, "merge", f"refs/heads/{start.branch}"),
        ]
    append_config(term.git_dir / "config", [*config, *remotes])
    if remotes:
        await git(term.path, "fetch", "--quiet", "--no-tags", "--", str(cache), "+refs/remotes/*:refs/remotes/*")
    await make_vault(term)
    if _is_other_branch(start.branch, there):
        await git(term.path, "branch", "--quiet", "--force", "--track", str(start.branch), f"{remote}/{start.branch}")
    if await lfs.is_used(term.vault, start.commit):
        await lfs.install(term.path, term.vault, term.reach.url)
    await git(
        term.path, *SAFE, "checkout", "--quiet", "--no-track", "-b", term.branch, start.commit, env=term.reach.env
    )
    await _check_names(term)
    await give_identity(term.path)
    term.granted = (await read_refs(term.git_dir)).refs


def _is_other_branch(branch: str | None, there: RemoteRefs) -> bool:
    """The clone made a local branch of the default one only."""
    if branch is None:
        return False
    full = f"refs/heads/{branch}"
    return full != there.default and not full.startswith(FLEET_HEADS)


async def _check_names(term: TermRepository) -> None:
    """A file system that folds case, or knows forbidden names, cannot hold every tree."""
    odd = await git(term.path, *SAFE, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    if odd:
        first = odd.splitlines()[0][3:]
        sentence = f"{term.reach.url} has names that this file system cannot hold: {first}"
        raise WorkspaceError(sentence, Fault.MACHINE)


async def give_identity(repository: Path) -> None:
    """In its own configuration: in the environment it would go before what an engine sets there."""
    with contextlib.suppress(GitError):
        await run(["git", "config", "user.email"], cwd=repository, env=factory_env())
        return
    for role, value in IDENTITY.items():
        await git(repository, "config", f"user.{role.lower()}", value)
