"""What an engine prints: bounded, on the disk until a coordinator has all of it, its tail kept for the report."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
from collections import deque
from io import FileIO
from pathlib import Path

log = logging.getLogger(__name__)

BEGINNING_BYTES = 3 * 1024 * 1024
END_BYTES = 1024 * 1024
TAIL_CHARS = 16 * 1024
NOT_KEPT = "\n[... from here on the log is not kept on this machine: {} ...]\n"
CUT = "\n[... the log is too long: from here on only its end is kept, and follows when the term is over ...]\n"
LEFT_OUT = "[... {} bytes are left out here ...]\n"


class LogFile:
    """A term's output as bytes of UTF-8. What the disk does not take is kept in memory.

    `changed` is set whenever there is more of it, or it is closed.
    """

    def __init__(self, path: Path, *, size: int = 0, closed: bool = False) -> None:
        self.path = path
        self.size = size
        self.closed = closed
        self.changed = asyncio.Event()
        self._on_disk = size
        self._in_memory = b""
        self._file: FileIO | None = None

    @classmethod
    def left_over(cls, path: Path) -> LogFile:
        """One of an earlier process, which wrote all that it ever will."""
        return cls(path, size=path.stat().st_size, closed=True)

    def open(self) -> None:
        """Begins anew. Raises OSError: then everything is kept in memory."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("wb", buffering=0)

    def append(self, data: bytes) -> None:
        """Raises OSError once, where the disk takes no more of it; what follows is kept in memory."""
        self.size += len(data)
        self.changed.set()
        if self._file is None:
            self._in_memory += data
            return
        try:
            while data:
                written = self._file.write(data)
                self._on_disk += written
                data = data[written:]
        except OSError:
            self._in_memory = data
            self._close_file()
            raise

    def read(self, offset: int, limit: int) -> bytes:
        """At most `limit` bytes from `offset`, none at the end."""
        data = b""
        if offset < self._on_disk:
            with self.path.open("rb") as file:
                file.seek(offset)
                data = file.read(min(limit, self._on_disk - offset))
        at = max(0, offset + len(data) - self._on_disk)
        return data + self._in_memory[at : at + limit - len(data)]

    def close(self) -> None:
        self.closed = True
        self.changed.set()
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


class End:
    """The last END_BYTES of what it is given, from the beginning of a line on."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0

    def take(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        while self._size - len(self._pieces[0]) >= END_BYTES:
            dropped = len(self._pieces.popleft())
            self._size -= dropped
            self._dropped += dropped

    def told(self) -> bytes:
        """Empty where all of the log was in its beginning."""
        end = b"".join(self._pieces)
        over = max(0, len(end) - END_BYTES)
        if over or self._dropped:
            over += end[over:].find(b"\n") + 1
            return LEFT_OUT.format(self._dropped + over).encode() + end[over:].decode(errors="ignore").encode()
        return end


class TermLog:
    """Takes bytes as they come, of any encoding. Of what is over the bound the last is kept: errors stand there.

    Nothing here raises: what cannot be written (a full disk) is still sent, and a log is no reason to end a job.
    """

    def __init__(self, file: LogFile, job_id: str) -> None:
        self._file = file
        self._job_id = job_id
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._kept = 0
        self._end = End()
        self._tail = ""
        self._heard = 0
        self.not_kept: str | None = None  # why, in a sentence
        try:
            file.open()
        except OSError as error:
            self._not_kept(error)

    @property
    def size(self) -> int:
        """Bytes that a coordinator will have of it."""
        return self._file.size

    @property
    def heard(self) -> int:
        """Characters so far."""
        return self._heard

    def tail(self, since: int = 0) -> str:
        """The last TAIL_CHARS, less what had been heard already when `heard` was `since`."""
        fresh = self._heard - since
        return self._tail[-fresh:] if 0 < fresh < len(self._tail) else self._tail if fresh else ""

    def take(self, data: bytes) -> None:
        text = self._decoder.decode(data)
        self._remember(text)
        encoded = text.encode()
        if self._kept < BEGINNING_BYTES:
            beginning = encoded[: BEGINNING_BYTES - self._kept].decode(errors="ignore").encode()
            self._append(beginning)
            self._kept += len(beginning)
            encoded = encoded[len(beginning) :]
            if encoded:
                self._kept = BEGINNING_BYTES
                self._append(CUT.encode())
        self._end.take(encoded)

    def close(self) -> None:
        """The engine prints no more. What is there is delivered beside; nobody waits for it here."""
        self._append(self._end.told())
        self._file.close()

    def _append(self, data: bytes) -> None:
        try:
            self._file.append(data)
        except OSError as error:
            self._not_kept(error)

    def _remember(self, text: str) -> None:
        self._heard += len(text)
        self._tail = (self._tail + text)[-TAIL_CHARS:]

    def _not_kept(self, error: OSError) -> None:
        """Said once: here, in what is sent, and in the tail that the report is made of."""
        log.warning("the log of %s is not kept any further: %s", self._job_id, error)
        self.not_kept = f"not all of the log is kept: {error.strerror}"
        mark = NOT_KEPT.format(error.strerror)
        self._remember(mark)
        self._append(mark.encode())
