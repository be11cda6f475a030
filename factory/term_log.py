"""What an engine prints: bounded on disk and on the wire, its tail kept for the report."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
from collections.abc import Awaitable, Callable
from io import FileIO
from pathlib import Path

from schemas.messages import LOG_CHUNK_MAX, Grant, LogChunk

log = logging.getLogger(__name__)

LOG_BYTES_MAX = 4 * 1024 * 1024
TAIL_CHARS = 16 * 1024
FLUSH_S = 0.2
CLOSE_WITHIN_S = 5.0
CHUNK_CHARS = LOG_CHUNK_MAX // 4  # so that its UTF-8 form fits whatever the characters are
NOT_KEPT = "\n[... from here on the log is not kept on this machine: {} ...]\n"
CUT = "\n[... the log is cut here; the engine went on printing ...]\n"

SendChunk = Callable[[LogChunk], Awaitable[None]]


class TermLog:
    """Takes bytes as they come, of any encoding. Whatever is over the bound is read, counted and dropped.

    Nothing here raises: what cannot be written (a full disk) is still sent, and a log is no reason to end a job.
    """

    def __init__(self, path: Path, grant: Grant, session_id: str, send: SendChunk) -> None:
        self._file: FileIO | None = None
        self._grant = grant
        self._session_id = session_id
        self._send = send
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._written = 0
        self._unsent = ""
        self._offset = 0
        self._tail = ""
        self._heard = 0
        self._wake = asyncio.Event()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            self._not_kept(error)
        self._task = asyncio.create_task(self._flush_for_ever(), name=f"log {grant.job_id}")

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
        if self._written >= LOG_BYTES_MAX:
            return
        encoded = text.encode()
        if self._written + len(encoded) >= LOG_BYTES_MAX:
            encoded = encoded[: LOG_BYTES_MAX - self._written]
            text = encoded.decode(errors="ignore") + CUT
            self._written = LOG_BYTES_MAX
        self._written += len(encoded)
        self._unsent += text
        self._keep(text.encode())
        self._wake.set()

    async def close(self) -> None:
        """The rest is sent, as far as anybody listens and for a moment only: the term's report waits behind it."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._flush()

    def _remember(self, text: str) -> None:
        self._heard += len(text)
        self._tail = (self._tail + text)[-TAIL_CHARS:]

    def _keep(self, data: bytes) -> None:
        """On the disk, as far as that takes it."""
        if self._file is None:
            return
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
            self._not_kept(error)

    def _not_kept(self, error: OSError) -> None:
        """Said once: here, in what is sent, and in the tail that the report is made of."""
        log.warning("the log of %s is not kept any further: %s", self._grant.job_id, error)
        mark = NOT_KEPT.format(error.strerror)
        self._unsent += mark
        self._remember(mark)

    async def _flush_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._flush()
            await asyncio.sleep(FLUSH_S)

    async def _flush(self) -> None:
        while self._unsent:
            text = self._unsent[:CHUNK_CHARS]
            chunk = LogChunk(
                product_id=self._grant.product_id,
                job_id=self._grant.job_id,
                lease_epoch=self._grant.lease_epoch,
                session_id=self._session_id,
                offset=self._offset,
                text=text,
            )
            try:
                await self._send(chunk)
            except Exception as error:
                log.debug("a log chunk of %s was not heard: %s", chunk.job_id, error)
            self._offset += len(text.encode())
            self._unsent = self._unsent[len(text) :]  # more may have come while this was being sent
