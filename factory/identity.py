"""A factory's lasting state: the lock that keeps a second one off, and the counter that numbers its sessions."""

from __future__ import annotations

from pathlib import Path

from factory.outbox import write_durably
from runtime.lockfile import LockFile


class Identity:
    """Raises AlreadyLocked where another process of this machine is this factory."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = LockFile(directory / "factory.lock")
        self._counter = directory / "session-number"

    def last_session_no(self) -> int | None:
        """None: the counter is lost, and the coordinator has to say."""
        try:
            return int(self._counter.read_text())
        except (OSError, ValueError):
            return None

    def remember(self, session_no: int) -> None:
        """On the disk before anything is said under this number."""
        write_durably(self._counter, f"{session_no}\n".encode())

    def release(self) -> None:
        self._lock.release()
