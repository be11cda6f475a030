"""The remotes that a person's own folder has, for a term that works on that folder: `git push origin` reaches there
what it reaches for the person.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from factory.git.config import Entry
from factory.git.environment import factory_env
from factory.git.run import GitError, git, run
from factory.git.urls import Reach, is_folder, reach_of
from factory.workspace.source import WORKSPACE
from factory.workspace.term_repository import TermRepository

SILENCE_S = 60.0
WANTED = r"^remote\..*\.(url|pushurl|fetch)$"


@dataclass
class FolderRemotes:
    """`config`: as the term's repository gets it. `reach`: name -> how it is fetched."""

    config: list[Entry] = field(default_factory=list)
    reach: dict[str, Reach] = field(default_factory=dict)


async def remotes_of(folder: Path) -> FolderRemotes:
    """Raises GitError."""
    found = FolderRemotes()
    said = await git(folder, "config", "-z", "--local", "--get-regexp", WANTED, ok=(0, 1))
    for entry in said.split("\0"):
        key, _, value = entry.partition("\n")
        name, _, what = key.removeprefix("remote.").rpartition(".")
        if not name or name == WORKSPACE:  # that is what the folder itself is called
            continue
        if what in ("url", "pushurl"):
            relative = is_folder(value) and not value.startswith(("/", "file://"))
            reach = reach_of(str((folder / value).resolve()) if relative else value)
            value = reach.url
            if what == "url":
                found.reach.setdefault(name, reach)
        found.config.append(("remote", name, what, value))
    return found


async def fetch_folder_remotes(term: TermRepository, remotes: FolderRemotes, progress: Callable[[str], None]) -> None:
    """Where one cannot be reached, the term knows of it what the folder knows."""
    for name, reach in remotes.reach.items():
        progress(f"fetching {name} of the folder: {reach.url}")
        argv = ["git", "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--", name]
        try:
            await run(argv, cwd=term.path, env=factory_env(reach.env), silence_s=SILENCE_S)
        except GitError as error:
            progress(f"{name} cannot be fetched, and is as the folder knows it: {error}")


async def tell_uncommitted(folder: Path, progress: Callable[[str], None]) -> None:
    """A term begins from a commit: what a person has not committed stays where it is."""
    said = await git(folder, "status", "--porcelain", "-z", env={"GIT_OPTIONAL_LOCKS": "0"})
    changes = sum(1 for entry in said.split("\0") if entry)
    if changes:
        progress(f"{folder} has {changes} uncommitted changes: they stay there, and this term does not see them")
