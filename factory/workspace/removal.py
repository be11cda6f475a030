"""Folders removed whole, whatever modes an engine gave to what is in them."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import uuid
from pathlib import Path


def remove_folder(path: Path) -> None:
    """Renamed first, so that half of it is taken for nothing. Raises OSError where it cannot even be renamed."""
    doomed = path.with_name(f".gone-{uuid.uuid4().hex}")
    path.rename(doomed)
    sweep(doomed)


def sweep(doomed: Path) -> None:
    """Only folders are made writable: a file may be linked into the repositories of other terms."""
    with contextlib.suppress(OSError):
        doomed.chmod(stat.S_IRWXU)
    for folder, names, _ in os.walk(doomed):
        for name in names:
            inside = os.path.join(folder, name)
            if not os.path.islink(inside):
                with contextlib.suppress(OSError):
                    os.chmod(inside, stat.S_IRWXU)
    shutil.rmtree(doomed, ignore_errors=True)
