"""The history of real processes: each writes its own part, and the parts are put together by time.

A record is one write to a file opened for appending, so what was written before a SIGKILL is there and whole. Times are
those of the machine's monotonic clock, which all its processes share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from chaos.history import History, Record


class Recorder:
    """`began_s`: when the run began, on the monotonic clock."""

    def __init__(self, path: Path, began_s: float) -> None:
        self.began_s = began_s
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def now_s(self) -> float:
        return time.monotonic() - self.began_s

    def note(self, kind: str, who: str, **data: Any) -> None:
        os.write(self._fd, Record(round(self.now_s(), 6), kind, who, data).to_line() + b"\n")

    def close(self) -> None:
        os.close(self._fd)


def records_of(parts: Iterable[Path]) -> list[Record]:
    """In the order of their times. What a full disk cut off of a last line is left out."""
    found: list[Record] = []
    for path in parts:
        for line in path.read_bytes().split(b"\n")[:-1]:
            doc = orjson.loads(line)
            found.append(Record(doc.pop("at"), doc.pop("kind"), doc.pop("who"), doc))
    found.sort(key=lambda record: record.at)
    return found


def gathered(folder: Path) -> History:
    """Of all parts in the folder."""
    return History(records_of(sorted(folder.glob("*.jsonl"))))
