"""A store in memory that takes its time, so that calls interleave, and counts what it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from coordinator.store.memory import MemoryStore
from coordinator.store.port import Address, Derived, Doc, Guarded, Query, Stored, Written

LATENCY_S = 1 / 256


class CountingStore(MemoryStore):
    """A read is answered `latency_s` after it was taken, so with what may be out of date; a write is applied so much
    after it was asked, and answered so much later still.
    """

    def __init__(self, *, atomic_then: bool = True) -> None:
        super().__init__(atomic_then=atomic_then)
        self.latency_s = LATENCY_S
        self.forget()

    def forget(self) -> None:
        self.reads: list[Address] = []
        self.queries: list[Query] = []
        self.listings: list[str] = []
        self.writes: list[Sequence[Guarded]] = []

    def reads_of(self, container: str) -> int:
        return sum(at.container == container for at in self.reads)

    def queries_of(self, container: str) -> int:
        return sum(query.container == container for query in self.queries)

    def writes_to(self, container: str) -> int:
        """Conditional ones, whether or not they were accepted."""
        return sum(any(write.container == container for write in writes) for writes in self.writes)

    async def read(self, at: Address) -> Stored | None:
        self.reads.append(at)
        found = await super().read(at)
        await asyncio.sleep(self.latency_s)
        return found

    async def query(self, query: Query) -> list[Stored]:
        self.queries.append(query)
        found = await super().query(query)
        await asyncio.sleep(self.latency_s)
        return found

    async def partitions(self, container: str, after: str | None = None, limit: int = 100) -> list[str]:
        self.listings.append(container)
        found = await super().partitions(container, after, limit)
        await asyncio.sleep(self.latency_s)
        return found

    async def create(self, container: str, doc: Doc) -> Written:
        await asyncio.sleep(self.latency_s)
        written = await super().create(container, doc)
        await asyncio.sleep(self.latency_s)
        return written

    async def update(self, container: str, doc: Doc, etag: str) -> Written:
        self.writes.append((Guarded(container, doc, etag),))
        await asyncio.sleep(self.latency_s)
        written = await super().update(container, doc, etag)
        await asyncio.sleep(self.latency_s)
        return written

    async def commit(self, guarded: Sequence[Guarded], then: Sequence[Derived] = ()) -> Written:
        self.writes.append(guarded)
        await asyncio.sleep(self.latency_s)
        written = await super().commit(guarded, then)
        await asyncio.sleep(self.latency_s)
        return written
