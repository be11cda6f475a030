"""Logs of terms, as bounded files beside the store: what the engine printed, as far as it was heard.

A chunk says where it belongs. A repeat changes nothing, a gap is marked, and what is over the bound is left out.
"""

from __future__ import annotations

from pathlib import Path

from schemas.ids import JobKey
from schemas.messages import LogChunk

LOG_BYTES_MAX = 4 * 1024 * 1024
GAP = "\n[... {} bytes were not heard ...]\n"
CUT = "\n[... the log is cut here: it is longer than {} bytes ...]\n"


class LogFiles:
    """`offset` of a chunk counts the bytes of the term's log in UTF-8, as the factory sent it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._heard: dict[Path, int] = {}

    def append(self, chunk: LogChunk) -> None:
        path = self._path(JobKey(chunk.product_id, chunk.job_id), chunk.lease_epoch)
        heard = self._heard.get(path)
        if heard is None:
            heard = path.stat().st_size if path.exists() else 0
        data = chunk.text.encode()
        fresh = data[max(0, heard - chunk.offset) :] if chunk.offset < heard else data
        if not fresh or heard >= LOG_BYTES_MAX:
            return
        if chunk.offset > heard:
            fresh = GAP.format(chunk.offset - heard).encode() + fresh
        end = chunk.offset + len(data)
        if end >= LOG_BYTES_MAX:
            fresh += CUT.format(LOG_BYTES_MAX).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            log.write(fresh)
        self._heard[path] = end

    def epochs(self, key: JobKey) -> list[int]:
        folder = self._directory / key.product_id / key.job_id
        return sorted(int(path.stem) for path in folder.glob("*.log")) if folder.is_dir() else []

    def read(self, key: JobKey, lease_epoch: int, offset: int, limit: int = 64 * 1024) -> tuple[str, int]:
        """At most `limit` bytes of text from `offset`, and the offset after them; empty where there is no more yet."""
        path = self._path(key, lease_epoch)
        if not path.exists():
            return "", offset
        with path.open("rb") as log:
            log.seek(offset)
            data = log.read(limit)
        whole = data.decode(errors="ignore") if len(data) == limit else data.decode(errors="replace")
        return whole, offset + (len(whole.encode()) if len(data) == limit else len(data))

    def _path(self, key: JobKey, lease_epoch: int) -> Path:
        return self._directory / key.product_id / key.job_id / f"{lease_epoch}.log"
