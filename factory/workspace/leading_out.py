"""What an engine in a sandbox made to lead out of it: the factory must not read there on its behalf."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from factory.workspace.reading import common_dir

FANOUT = 2  # letters of a folder of loose objects


Place = Callable[[Path], Path | None]


def as_it_is(path: Path) -> Path | None:
    """An engine without a sandbox has everywhere what the factory has there."""
    return path


def leads_out(git_dir: Path, place: Place) -> Path | None:
    """The first link, or list of borrowed objects, in a repository that leads to what its engine has not."""
    if place is as_it_is:
        return None

    def sees(path: Path) -> bool:
        return place(path) == path.resolve()

    for there in (git_dir, common_dir(git_dir)):
        if not sees(there):
            return there
    for folder, names, files in os.walk(git_dir):
        here = Path(folder)
        for name in (*names, *files):
            if (here / name).is_symlink() and not sees(here / name):
                return here / name
        if here.name == "objects":
            names[:] = [name for name in names if len(name) != FANOUT]
    alternates = git_dir / "objects" / "info" / "alternates"
    if alternates.is_file():
        for line in alternates.read_bytes().splitlines():
            if line and not sees(git_dir / "objects" / os.fsdecode(line)):
                return alternates
    return None
