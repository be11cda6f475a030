"""A lock that one process of a machine can hold, given up by the system when the process ends, however it ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path


class AlreadyLocked(RuntimeError):
    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(f"{path} is held by " + (f"process {pid}" if pid else "another process"))
        self.path = path
        self.pid = pid


class LockFile:
    """Holds the advisory lock from construction to `release`. Raises AlreadyLocked, with the holder's pid."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            _lock(fd)
        except OSError:
            pid = _pid_in(fd)
            os.close(fd)
            raise AlreadyLocked(path, pid) from None
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd: int | None = fd

    def release(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _pid_in(fd: int) -> int | None:
    os.lseek(fd, 0, os.SEEK_SET)
    text = os.read(fd, 32).strip()
    return int(text) if text.isdigit() else None


if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        os.lseek(fd, 1 << 20, os.SEEK_SET)  # beyond the pid, which others must be able to read
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
