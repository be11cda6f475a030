"""Logs of terms, as bounded files beside the store: what the engine printed, as far as it was heard.

A chunk says where it belongs. A repeat changes nothing, a gap is marked, and what is over the bound is left out.
"""

from __future__ import annotations

import codecs
import logging
from pathlib import Path

from schemas.ids import JobKey
from schemas.messages import LogChunk

log = logging.getLogger(__name__)

LOG_BYTES_MAX = 4 * 1024 * 1024 + 4 * 1024  # a factory cuts at 4 MiB and says so itself: there is room for its words
REMEMBERED_MAX = 1024
GAP = "\n[... {} bytes were not heard ...]\n"
CUT = "\n[... the log is cut here: it is longer than {} bytes ...]\n"


class LogFiles:
    """`offset` of a chunk counts the bytes of the term's log in UTF-8, as the factory sent it. A file holds more than
    was heard where a gap is marked in it, so how far it was heard is written beside it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._heard: dict[Path, int] = {}

    def append(self, chunk: LogChunk) -> int:
        """How many bytes of the log have been heard now. What cannot be written counts too: a log is no reason to fail,
        nor to be sent again and again.
        """
        path = self._path(JobKey(chunk.product_id, chunk.job_id), chunk.lease_epoch)
        end = chunk.offset + len(chunk.text.encode())
        try:
            return max(end, self._append(path, chunk, end))
        except OSError as error:
            log.warning("output of term %d of %s is left out: %s", chunk.lease_epoch, chunk.job_id, error)
            return end

    def _append(self, path: Path, chunk: LogChunk, end: int) -> int:
        heard = self._heard[path] if path in self._heard else _read_heard(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if chunk.last is not None:
            _note_end(path, is_there=chunk.last)
        data = chunk.text.encode()
        fresh = data[max(0, heard - chunk.offset) :] if chunk.offset < heard else data
        if not fresh or heard >= LOG_BYTES_MAX:
            return heard
        if chunk.offset > heard:
            fresh = GAP.format(chunk.offset - heard).encode() + fresh
        if end >= LOG_BYTES_MAX:
            fresh += CUT.format(LOG_BYTES_MAX).encode()
        with path.open("ab") as file:
            file.write(fresh)
        path.with_suffix(".heard").write_text(str(end))
        while len(self._heard) >= REMEMBERED_MAX:
            del self._heard[next(iter(self._heard))]
        self._heard[path] = end
        return end

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
        return text, offset + len(data) - len(
            decoder.getstate()[0]
        )  # a character cut by the limit is for the next page

    def _path(self, key: JobKey, lease_epoch: int) -> Path:
        return self._directory / key.product_id / key.job_id / f"{lease_epoch}.log"


def _note_end(path: Path, *, is_there: bool) -> None:
    """A sender that says where logs end has promised the end with its first chunk."""
    promised = path.with_suffix(".open")
    if is_there:
        promised.unlink(missing_ok=True)
        path.with_suffix(".ended").touch()
    elif not promised.exists() and not path.with_suffix(".ended").exists():
        promised.touch()


def _read_heard(path: Path) -> int:
    """How far the term was heard before this process began; by the log's own size where nothing tells."""
    beside = path.with_suffix(".heard")
    if beside.exists() and (text := beside.read_text()).isdigit():
        return int(text)
    return path.stat().st_size if path.exists() else 0
