"""The folders of one term beside its tree."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from factory.workspace.removal import remove_folder


@dataclass(frozen=True)
class TermFolders:
    """`control`: the factory's, with what it tells the launcher and git's helper. `own`: the term's, with `scratch` for
    what an engine writes that is not its work. A term's programs write into the folders in it, and never beside them:
    what they put in a folder's place would be mounted for the next one.
    """

    control: Path
    own: Path

    @property
    def scratch(self) -> Path:
        return self.own / "scratch"

    @property
    def home(self) -> Path:
        return self.own / "home"

    @property
    def tmp(self) -> Path:
        return self.own / "tmp"

    def make(self, *, home: bool) -> None:
        self.control.mkdir(parents=True, exist_ok=True)
        self.own.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.scratch, *((self.home, self.tmp) if home else ())):
            folder.mkdir(exist_ok=True, mode=0o700)

    async def remove(self) -> None:
        """A home may be large: it goes beside the factory's work. Raises OSError."""
        shutil.rmtree(self.control, ignore_errors=True)
        if self.own.exists():
            with contextlib.suppress(OSError):  # mostly there is nothing in them
                for folder in (self.scratch, self.own):
                    folder.rmdir()
                return
            await asyncio.to_thread(remove_folder, self.own)


@dataclass(frozen=True)
class FolderRoots:
    """Of all terms of a factory: those of the factory itself, and the scratch folders."""

    terms: Path
    scratch: Path

    def of(self, job_id: str, lease_epoch: int) -> TermFolders:
        name = f"{job_id}-{lease_epoch}"
        return TermFolders(self.terms / name, self.scratch / name)


def scratch_root(data: Path, environ: Mapping[str, str]) -> Path:
    """Where the terms of the factory that lives in `data` have their own folders: apart from what is its own, where the
    user has a place for such things.
    """
    home = Path(environ.get("HOME") or Path.home())
    if sys.platform == "win32":
        caches = Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        caches = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    root = caches / "gigafactory" / hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        root = data / "scratch"
    return root.resolve()
