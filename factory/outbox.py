"""Reports and releases on disk before they are sent, one file each, until they are acknowledged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import orjson


class Pending(NamedTuple):
    path: Path
    op: str  # report or release
    message: dict[str, Any]


def write_durably(path: Path, data: bytes) -> None:
    """Whole or not at all, and on the disk when this returns."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Outbox:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def path_of(self, message: dict[str, Any]) -> Path:
        return self._directory / f"{message['jobId']}.{message['leaseEpoch']}.json"

    def put(self, op: str, message: dict[str, Any]) -> Pending:
        """Raises OSError: it is not on the disk."""
        path = self.path_of(message)
        write_durably(path, orjson.dumps({"op": op, "message": message}))
        return Pending(path, op, message)

    def settled(self, pending: Pending) -> None:
        pending.path.unlink(missing_ok=True)

    def pending(self) -> list[Pending]:
        found = []
        for path in sorted(self._directory.glob("*.json")):
            doc = orjson.loads(path.read_bytes())
            found.append(Pending(path, doc["op"], doc["message"]))
        return found
