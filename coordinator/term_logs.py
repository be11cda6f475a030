"""Logs of terms, as bounded files beside the store: what the engine printed, as far as it was heard.

A chunk says where it belongs. A repeat changes nothing, a gap is marked, and what is over the bound is left out.
"""

from __future__ import annotations

import codecs
import logging
import os
from pathlib import Path

from schemas.errors import ErrorCode, FleetError
from schemas.ids import JobKey
from schemas.messages import LogChunk

log = logging.getLogger(__name__)

LOG_BYTES_MAX = 4 * 1024 * 1024 + 4 * 1024  # a factory cuts at 4 MiB and says so itself: there is room for its words
REMEMBERED_MAX = 1024
GAP = "\n[... {} bytes were not heard ...]\n"
CUT = "\n[... the log is cut here: it is longer than {} bytes ...]\n"


class LogFiles:
    """`offset` of a chunk counts the bytes of the term's log in UTF-8, as the factory sent it. How far a log was heard
    is the size of its file; once a gap is marked in it, the number is written beside it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._heard: dict[Path, int] = {}

    def append(self, chunk: LogChunk) -> int:
        """How many bytes of the log have been heard now. Raises unavailable where the disk does not take it: its sender
        keeps it and sends it again.
        """
        path = self._path(JobKey(chunk.product_id, chunk.job_id), chunk.lease_epoch)
        end = chunk.offset + len(chunk.text.encode())
        try:
            return max(end, self._append(path, chunk, end))
        except OSError as error:
            sentence = f"output of term {chunk.lease_epoch} of {chunk.job_id} cannot be kept: {error}"
            log.warning(sentence)
            raise FleetError(ErrorCode.UNAVAILABLE, sentence) from error

    def _append(self, path: Path, chunk: LogChunk, end: int) -> int:
        path.parent.mkdir(parents=True, exist_ok=True)
        if chunk.last is False:
            _promise_end(path)
        heard = self._heard[path] if path in self._heard else _read_heard(path)
        fresh = chunk.text.encode()[max(0, heard - chunk.offset) :]
        gap = chunk.offset > heard
        if (fresh or (gap and chunk.last is True)) and heard < LOG_BYTES_MAX:
            if gap:
                fresh = GAP.format(chunk.offset - heard).encode() + fresh
            if end >= LOG_BYTES_MAX:
                fresh += CUT.format(LOG_BYTES_MAX).encode()
            _write(path, fresh, heard, end)
            heard = end
            self._remember(path, end)
        if chunk.last is True:  # only now: a log is complete when its last piece is on the disk
            _note_end(path)
        return heard

    def _remember(self, path: Path, heard: int) -> None:
        while len(self._heard) >= REMEMBERED_MAX:
            del self._heard[next(iter(self._heard))]
        self._heard[path] = heard

    def is_ended(self, key: JobKey, lease_epoch: int) -> bool:
        """Whether its last piece has arrived."""
        return self._path(key, lease_epoch).with_suffix(".ended").exists()

    def is_open(self, key: JobKey, lease_epoch: int) -> bool:
        """Whether its sender has promised more of the log than has arrived."""
        return self._path(key, lease_epoch).with_suffix(".open").exists()

    def epochs(self, key: JobKey) -> list[int]:
        folder = self._directory / key.product_id / key.job_id
        return sorted(int(path.stem) for path in folder.glob("*.log")) if folder.is_dir() else []

    def read(self, key: JobKey, lease_epoch: int, offset: int, limit: int = 64 * 1024) -> tuple[str, int]:
        """At most `limit` bytes of text from `offset`, and the offset after them; empty where there is no more yet."""
        path = self._path(key, lease_epoch)
        if not path.exists() or path.stat().st_size <= offset:
            return "", offset
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(limit)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data, final=len(data) < limit)
        cut = len(decoder.getstate()[0])  # a character cut by the limit is for the next page
        return text, offset + len(data) - cut

    def _path(self, key: JobKey, lease_epoch: int) -> Path:
        return self._directory / key.product_id / key.job_id / f"{lease_epoch}.log"


def _write(path: Path, data: bytes, heard_before: int, heard: int) -> None:
    """All of it or nothing: a piece of which the disk took a part would be sent again as a whole."""
    before = path.stat().st_size if path.exists() else 0
    beside = path.with_suffix(".heard")
    noted = beside.exists() or before + len(data) != heard
    try:
        if noted and not beside.exists():  # should this process die in the middle, what it had written goes again
            _note_heard(beside, before, heard_before)
        with path.open("ab") as file:
            file.write(data)
        if noted:
            _note_heard(beside, before + len(data), heard)
    except OSError:
        if path.is_file():
            os.truncate(path, before)
        raise


def _note_heard(beside: Path, size: int, heard: int) -> None:
    part = beside.with_suffix(".part")
    part.write_text(f"{size} {heard}")
    part.replace(beside)


def _promise_end(path: Path) -> None:
    """A sender that says where logs end has promised the end with its first chunk."""
    if not path.with_suffix(".ended").exists():
        path.with_suffix(".open").touch()


def _note_end(path: Path) -> None:
    path.with_suffix(".ended").touch()
    path.with_suffix(".open").unlink(missing_ok=True)


def _read_heard(path: Path) -> int:
    """How far the term was heard before this process began; by the log's own size where nothing tells.

    What a log has beyond the size that was noted with it was never acknowledged, and comes again.
    """
    beside = path.with_suffix(".heard")
    size = path.stat().st_size if path.exists() else 0
    if not beside.exists():
        return size
    noted, _, heard = beside.read_text().partition(" ")
    if not heard:  # an older release noted the offset alone
        return int(noted)
    if size > int(noted):
        os.truncate(path, int(noted))
    return int(heard)
