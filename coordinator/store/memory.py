"""The twin: a datastore in memory. Compare and set stand in one block without an await between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import ge, gt, le, lt
from typing import Any

import orjson

from coordinator.store.port import (
    ABSENT,
    PARTITION_KEYS,
    Absent,
    Address,
    Derived,
    Doc,
    Guarded,
    Query,
    Stored,
    Where,
    WriteStatus,
    Written,
    looked_up,
    partition_of,
)

_ORDERED: dict[str, Callable[[Any, Any], bool]] = {">": gt, "<": lt, ">=": ge, "<=": le}


class MemoryStore:
    """`atomic_then=False` behaves as a store without transactions over containers does."""

    def __init__(self, *, atomic_then: bool = True) -> None:
        self._atomic_then = atomic_then
        self._docs: dict[str, dict[str, dict[str, tuple[bytes, str]]]] = {name: {} for name in PARTITION_KEYS}
        self._writes = 0

    @property
    def atomic_then(self) -> bool:
        return self._atomic_then

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def read(self, at: Address) -> Stored | None:
        entry = self.entry_at(at)
        return None if entry is None else Stored(orjson.loads(entry[0]), entry[1])

    async def create(self, container: str, doc: Doc) -> Written:
        return self.commit_now([Guarded(container, doc, ABSENT)], ())

    async def update(self, container: str, doc: Doc, etag: str) -> Written:
        return self.commit_now([Guarded(container, doc, etag)], ())

    async def delete(self, at: Address, etag: str) -> Written:
        entry = self.entry_at(at)
        if entry is None:
            return Written(WriteStatus.NOT_FOUND)
        if entry[1] != etag:
            return Written(WriteStatus.CONFLICT)
        del self._docs[at.container][at.partition][at.id]
        return Written(WriteStatus.OK)

    async def query(self, query: Query) -> list[Stored]:
        rows = []
        for data, etag in self._docs[query.container].get(query.partition, {}).values():
            doc = _parsed(data)
            if not all(_matches(doc, where) for where in query.where):
                continue
            position = looked_up(doc, query.order)
            if position is None:
                continue
            if query.after is None or (position < query.after if query.descending else position > query.after):
                rows.append((position, data, etag))
        rows.sort(key=lambda row: row[0], reverse=query.descending)
        return [Stored(orjson.loads(data), etag) for _, data, etag in rows[: query.limit]]

    async def commit(self, guarded: Sequence[Guarded], then: Sequence[Derived] = ()) -> Written:
        return self.commit_now(guarded, then)

    async def project(self, derived: Sequence[Derived]) -> None:
        self.project_now(derived)

    async def partitions(self, container: str, after: str | None = None, limit: int = 100) -> list[str]:
        names = sorted(name for name, docs in self._docs[container].items() if docs)
        return [name for name in names if after is None or name > after][:limit]

    def entry_at(self, at: Address) -> tuple[bytes, str] | None:
        return self._docs[at.container].get(at.partition, {}).get(at.id)

    def commit_now(self, guarded: Sequence[Guarded], then: Sequence[Derived]) -> Written:
        assert len({write.address.partition for write in guarded}) <= 1
        for write in guarded:
            entry = self.entry_at(write.address)
            if isinstance(write.expected, Absent):
                if entry is not None:
                    return Written(WriteStatus.CONFLICT)
            elif entry is None:
                return Written(WriteStatus.NOT_FOUND)
            elif entry[1] != write.expected:
                return Written(WriteStatus.CONFLICT)
        etags = tuple(self.put(write.container, write.doc) for write in guarded)
        self.project_now(then)
        return Written(WriteStatus.OK, etags)

    def project_now(self, derived: Sequence[Derived]) -> None:
        for write in derived:
            entry = self.entry_at(write.address)
            newer = entry is not None and write.rev is not None and _parsed(entry[0])["rev"] < write.rev
            if entry is None or newer:
                self.put(write.container, write.doc)

    def put(self, container: str, doc: Doc) -> str:
        self._writes += 1
        etag = str(self._writes)
        partition = self._docs[container].setdefault(partition_of(container, doc), {})
        partition[doc["id"]] = (orjson.dumps(doc), etag)
        return etag


@lru_cache(maxsize=4096)
def _parsed(data: bytes) -> Doc:
    """Only to look at: what a caller gets is parsed for it alone, so that it may change it."""
    doc: Doc = orjson.loads(data)
    return doc


def _matches(doc: Doc, where: Where) -> bool:
    value = looked_up(doc, where.path)
    if where.compare == "=":
        return bool(value == where.value)
    if where.compare == "in":
        return value in where.value
    return value is not None and _ORDERED[where.compare](value, where.value)
