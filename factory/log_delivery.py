"""Brings the logs of terms to a coordinator: the next chunk is sent when the last one was acknowledged.

A log lies on the disk until all of it is acknowledged. Nobody waits for that: a report goes out at once, a seat is free
at once, and what a session does not bring over is brought by the next one.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import logging
from pathlib import Path
from typing import NamedTuple, Protocol

import orjson

from factory.link.port import Unanswered
from factory.term_log import LogFile, TermLog
from schemas.errors import FleetError
from schemas.messages import Grant, LogChunk

log = logging.getLogger(__name__)

CHUNK_BYTES = 32 * 1024  # as JSON, at most six times that
FLUSH_S = 0.2
RETRY_FIRST_S = 0.2
RETRY_MAX_S = 5.0


class SendChunk(Protocol):
    async def __call__(self, chunk: LogChunk, *, live: bool) -> int:
        """How many bytes of the log were heard. `live`: its term still prints. Raises Unanswered, or FleetError where
        they will not be heard.
        """


class LogAddress(NamedTuple):
    """Whose log it is; in a file beside the log, so that a later session knows."""

    product_id: str
    job_id: str
    lease_epoch: int
    session_id: str


class LogDelivery:
    def __init__(self, folder: Path, send: SendChunk) -> None:
        self._folder = folder
        self._send = send
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, grant: Grant, session_id: str) -> TermLog:
        """The log of a term that begins; from now on it is delivered."""
        address = LogAddress(grant.product_id, grant.job_id, grant.lease_epoch, session_id)
        file = LogFile(self._folder / f"{grant.job_id}-{grant.lease_epoch}.log")
        with contextlib.suppress(OSError):  # a full disk: it is said when the log itself is begun
            self._folder.mkdir(parents=True, exist_ok=True)
            file.path.with_suffix(".json").write_bytes(orjson.dumps(address._asdict()))
        term_log = TermLog(file, grant.job_id)
        self._begin(file, address)
        return term_log

    def resume(self) -> int:
        """Begins to deliver what earlier sessions left; gives how many logs these are."""
        found = 0
        for note in sorted(self._folder.glob("*.json")):
            path = note.with_suffix(".log")
            try:
                address = LogAddress(**orjson.loads(note.read_bytes()))
                file = LogFile.left_over(path)
            except (OSError, ValueError, TypeError) as error:
                log.warning("%s is no log that could be delivered: %s", path, error)
                continue
            self._begin(file, address)
            found += 1
        return found

    async def settle(self, within_s: float) -> None:
        """Returns when all logs are delivered, or the time is over: then the rest stays on the disk."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=within_s)

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, file: LogFile, address: LogAddress) -> None:
        task = asyncio.create_task(self._deliver(file, address), name=f"log {address.job_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, file: LogFile, address: LogAddress) -> None:
        heard, told_end = 0, False
        while not told_end and not (file.closed and file.size == 0):  # of a term that printed nothing there is no log
            if not file.closed and file.size - heard < CHUNK_BYTES:
                file.changed.clear()
                if heard == file.size:
                    await file.changed.wait()
                await self._more_or_flush(file)
            try:
                chunk, end = self._chunk(file, address, heard)
                if chunk is None:
                    continue
                heard = max(await self._insist(chunk, live=not file.closed), end)
                told_end = chunk.last is True
            except FleetError as error:
                log.warning("the log of %s is not wanted any further: %s", address.job_id, error.message)
                break
            except OSError as error:
                log.warning("the log of %s cannot be read any further: %s", address.job_id, error)
                break
        for path in (file.path, file.path.with_suffix(".json")):
            path.unlink(missing_ok=True)

    @staticmethod
    async def _more_or_flush(file: LogFile) -> None:
        """What an engine prints within a moment goes out together."""
        if not file.closed:
            await asyncio.sleep(FLUSH_S)

    @staticmethod
    def _chunk(file: LogFile, address: LogAddress, offset: int) -> tuple[LogChunk | None, int]:
        """The next piece, and the offset after it. None: there is none yet. A character is never cut in two."""
        closed = file.closed
        data = file.read(offset, CHUNK_BYTES)
        if not data and not closed:
            return None, offset
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # what a killed factory left may end in the middle of a character, and nothing more of it comes
        text = decoder.decode(data, final=closed and offset + len(data) >= file.size)
        end = offset + len(data) - len(decoder.getstate()[0])
        if end == offset and not closed:
            return None, offset
        chunk = LogChunk(**address._asdict(), offset=offset, text=text, last=closed and end >= file.size)
        return chunk, end

    async def _insist(self, chunk: LogChunk, *, live: bool) -> int:
        """Until it is acknowledged."""
        wait_s = RETRY_FIRST_S
        while True:
            try:
                return await self._send(chunk, live=live)
            except Unanswered as error:
                log.debug("a piece of the log of %s was not heard: %s", chunk.job_id, error)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_MAX_S)
