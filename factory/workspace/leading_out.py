"""What an engine in a sandbox made to lead out of it: the factory must not read there on its behalf."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from factory.workspace.reading import common_dir

FANOUT = 2  # letters of a folder of loose objects
BORROWED_DEPTH = 5
ALTERNATES_BYTES_MAX = 64 * 1024


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
    common = common_dir(git_dir)
    for top in dict.fromkeys((git_dir, common)):
        if (out := _link_out(top, sees)) is not None:
            return out
    return _borrowed_out(common / "objects", sees)


def _link_out(top: Path, sees: Callable[[Path], bool]) -> Path | None:
    for folder, names, files in os.walk(top):
        here = Path(folder)
        for name in (*names, *files):
            if (here / name).is_symlink() and not sees(here / name):
                return here / name
        if here.name == "objects":
            names[:] = [name for name in names if len(name) != FANOUT]
    return None


def _borrowed_out(objects: Path, sees: Callable[[Path], bool], depth: int = 0) -> Path | None:
    """Through every list of borrowed objects. One that is quoted, or leads on and on, nobody needs."""
    alternates = objects / "info" / "alternates"
    if not alternates.is_file():
        return None
    if depth > BORROWED_DEPTH or alternates.stat().st_size > ALTERNATES_BYTES_MAX:
        return alternates
    for line in alternates.read_bytes().splitlines():
        if not line or line.startswith(b"#"):
            continue
        there = objects / os.fsdecode(line)
        if line.startswith(b'"') or not sees(there) or _borrowed_out(there, sees, depth + 1) is not None:
            return alternates
    return None
