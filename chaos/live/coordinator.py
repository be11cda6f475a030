"""`python -m chaos.live.coordinator FILE`: a real coordinator on SQLite that writes down what it commits.

On Cosmos the server tells (see `cosmos_server`), and the coordinator is started as it is anywhere.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from chaos.live.recorder import Recorder
from coordinator.enrolment_file import read_enrolments
from coordinator.main import Settings, serve
from coordinator.store.port import EVENTS, JOBS, Derived, Guarded, Written
from coordinator.store.sqlite import SqliteStore
from runtime.settings import Timers


@dataclass(frozen=True)
class CoordinatorSpec:
    data: str
    listen: str
    bus_url: str
    bus_seed_file: str
    enrolments: str
    lease_ttl_s: float
    record: str
    began_s: float
    max_pages: int | None


class SeenSqliteStore(SqliteStore):
    """Tells of a job's events when they are on the disk, and before anybody is answered."""

    def __init__(self, directory: Path, recorder: Recorder, max_pages: int | None) -> None:
        super().__init__(directory, max_pages=max_pages)
        self._recorder = recorder
        self._seen: set[tuple[str, int]] = set()

    async def commit(self, guarded: Sequence[Guarded], then: Sequence[Derived] = ()) -> Written:
        written = await super().commit(guarded, then)
        if written.ok:
            events = [one.doc for one in then if one.container == EVENTS]
            for job in (one.doc for one in guarded if one.container == JOBS):
                events += job.get("outbox") or ()
            for event in sorted(events, key=lambda event: int(event["seq"])):
                key = event["jobId"], event["seq"]
                if key not in self._seen:
                    self._seen.add(key)
                    names = ("productId", "jobId", "seq", "type", "leaseEpoch")
                    self._recorder.note("seen", "world", **{name: event[name] for name in names})
        return written


def main() -> None:
    spec = CoordinatorSpec(**orjson.loads(Path(sys.argv[1]).read_bytes()))
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    settings = Settings(
        data=Path(spec.data),
        listen=spec.listen,
        bus_url=spec.bus_url,
        bus_seed=Path(spec.bus_seed_file).read_text().strip(),
        enrolments=read_enrolments(Path(spec.enrolments)),
        timers=Timers.for_lease_ttl(spec.lease_ttl_s),
    )
    recorder = Recorder(Path(spec.record), spec.began_s)
    asyncio.run(serve(settings, SeenSqliteStore(settings.data, recorder, spec.max_pages)))


if __name__ == "__main__":
    main()
