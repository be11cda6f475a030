"""A sandbox of bubblewrap: what the programs of a term see of the machine's files, processes and network.

`veil`: the machine as it is, without what belongs to the fleet. `strict`: a system that cannot be written to, a home
and a /tmp of the term's own, no network if so asked. Both have a process space of their own: through another process of
the same user (/proc/PID/root, ptrace) everything that is hidden could be reached again.

Run as a program, it prints what works here, one mode a line, or why nothing does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import factory
from factory.ports import Worktree
from factory.surroundings.folders import TermFolders

PROBE_S = 10.0
SYSTEM = (Path("/"), Path("/usr"), Path("/usr/local"))
VAULTED = ("--perms", "0555", "--tmpfs")
TMP = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108
NAME_SERVICE = ("/run/systemd/resolve", "/run/resolvconf", "/run/nscd")
GIT_SETTINGS = (".gitconfig", ".config/git")
# With these root could undo the sandbox, from within or by way of a device or another process.
ROOT_LOSES = ("SYS_ADMIN", "SYS_PTRACE", "SYS_MODULE", "SYS_RAWIO", "MKNOD", "DAC_READ_SEARCH")


class Mode(StrEnum):
    OFF = "off"
    VEIL = "veil"
    STRICT = "strict"

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What a factory offers that runs its terms so."""
        return {Mode.OFF: (), Mode.VEIL: ("sandbox-veil",), Mode.STRICT: ("sandbox-strict", "sandbox-veil")}[self]


def missing(mode: Mode) -> str | None:
    """Why it cannot be had here, in a sentence; None where it works. Tries it."""
    if mode is Mode.OFF:
        return None
    program = shutil.which("bwrap")
    if not sys.platform.startswith("linux"):
        return "a sandbox is made by bubblewrap, which is for Linux only"
    if program is None:
        return "bubblewrap is not installed (`bwrap` is not on PATH)"
    words = (program, *_base(mode), *(("--unshare-net",) if mode is Mode.STRICT else ()), "--", "true")
    try:
        tried = subprocess.run(words, capture_output=True, text=True, timeout=PROBE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not work here: {error}"
    return None if tried.returncode == 0 else f"bubblewrap does not work here: {tried.stderr.strip()}"


def chosen(asked: Mode | None) -> tuple[Mode, str | None]:
    """The mode, and why it is none. A veil that nobody asked for is not insisted on. Raises ValueError where what was
    asked for is not to be had.
    """
    mode = Mode.VEIL if asked is None else asked
    why = missing(mode)
    if why is not None and asked is not None:
        raise ValueError(f"--sandbox {mode}: {why}")
    return (Mode.OFF, why) if why is not None else (mode, None)


@dataclass(frozen=True)
class Sandbox:
    """`hidden`: files and folders that no job may see. `shown`: what is seen all the same, and cannot be written."""

    mode: Mode
    hidden: tuple[Path, ...]
    shown: tuple[Path, ...]
    home: Path

    def around(self, tree: Worktree, folders: TermFolders, *, network: bool) -> tuple[str, ...]:
        """The words before a command, up to its `--`."""
        words = [shutil.which("bwrap") or "bwrap", *_base(self.mode)]
        if self.mode is Mode.STRICT:
            words += self._own_system(folders)
            words += () if network else ("--unshare-net",)
        hidden = _outermost(self.hidden)
        words += self._outside(hidden)
        for place in (*tree.open_places, tree.path):  # the tree by itself too: a mount cannot be moved away
            words += ("--bind", str(place), str(place))
        for place in tree.closed_places:
            words += (*VAULTED, str(place), "--remount-ro", str(place))
        words += ("--ro-bind", str(folders.control), str(folders.control))
        words += ("--bind", str(folders.scratch), str(folders.scratch))
        if self.mode is not Mode.STRICT and folders.home.is_dir():
            words += ("--bind", str(folders.home), str(folders.home))
        for place in hidden:  # last: before this the mount points in it had to be made
            words += ("--remount-ro", str(place)) if place.is_dir() else ()
        return (*words, "--chdir", str(tree.work_dir))

    def place(self, path: Path, tree: Worktree, folders: TermFolders) -> Path | None:
        """Where on this machine that is which a job has at `path`; None where it has nothing."""
        path = Path(os.path.normpath(path))
        real = path.resolve()
        if any(real.is_relative_to(place.resolve()) for place in (*tree.open_places, folders.scratch)):
            return real
        if self.mode is not Mode.STRICT:
            return None if any(real.is_relative_to(place) for place in self.hidden) else real
        for inside, outside in ((self.home, folders.home), *((place, folders.tmp) for place in TMP)):
            if path.is_relative_to(inside):
                there = (outside / path.relative_to(inside)).resolve()
                return there if there.is_relative_to(outside.resolve()) else None
        return None

    def _own_system(self, folders: TermFolders) -> Iterable[str]:
        for place in TMP:
            yield from ("--bind", str(folders.tmp), str(place))
        yield from ("--bind", str(folders.home), str(self.home), "--tmpfs", "/run")
        for name in NAME_SERVICE:
            yield from ("--ro-bind-try", name, name)

    def _outside(self, hidden: Sequence[Path]) -> Iterable[str]:
        """From the top down: what is deeper says more exactly what is meant."""
        shown = [(path, True) for path in self._all_shown()]
        for path, is_shown in sorted([*shown, *((path, False) for path in hidden)], key=lambda one: len(one[0].parts)):
            if is_shown:
                yield from ("--ro-bind-try", str(path), str(path))
            elif path.is_dir():
                yield from ("--tmpfs", str(path))
            elif path.exists():
                yield from ("--ro-bind", os.devnull, str(path))

    def _all_shown(self) -> list[Path]:
        if self.mode is not Mode.STRICT:  # what the factory runs itself cannot be written to
            return [*(place for place in _own_programs() if place not in SYSTEM and place.is_dir()), *self.shown]
        places = [*(Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry), *_own_programs()]
        covered = (self.home, *TMP, Path("/run"))
        wanted = [place for place in places if any(place.is_relative_to(cover) for cover in covered)]
        return [*wanted, *(self.home / name for name in GIT_SETTINGS), *self.shown]


def _base(mode: Mode) -> tuple[str, ...]:
    if mode is Mode.STRICT:
        system: tuple[str, ...] = ("--ro-bind", "/", "/", "--dev", "/dev", "--unshare-ipc")
        lost: tuple[str, ...] = ("ALL",)
    else:
        system = ("--dev-bind", "/", "/")
        lost = tuple(f"CAP_{name}" for name in ROOT_LOSES)
    drops = [word for name in lost for word in ("--cap-drop", name)] if os.geteuid() == 0 else []
    kernel = ("--ro-bind", "/proc/sys", "/proc/sys") if drops else ()  # root needs no capability to write there
    return (*system, "--proc", "/proc", *kernel, "--unshare-pid", "--die-with-parent", *drops)


def _own_programs() -> tuple[Path, ...]:
    """git asks a program of the factory for credentials."""
    return (Path(sys.prefix), Path(sys.base_prefix), Path(str(factory.__file__)).parents[1])


def _outermost(paths: Iterable[Path]) -> list[Path]:
    there = sorted({path for path in paths if path.exists()})
    return [path for path in there if not any(path != other and path.is_relative_to(other) for other in there)]


def main() -> None:
    for mode in (Mode.VEIL, Mode.STRICT):
        sys.stdout.write(f"{mode}: {missing(mode) or 'works'}\n")


if __name__ == "__main__":
    main()
