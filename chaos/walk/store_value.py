"""The store as a value: it can be copied and compared, and a call of it is a thing that somebody may let happen,
lose, or apply and then lose the answer of."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, cast

import orjson

from coordinator.store.memory import MemoryStore
from coordinator.store.port import (
    Address,
    Derived,
    Doc,
    Guarded,
    Indefinite,
    Query,
    Stored,
    StoreError,
    StoreFull,
    WriteStatus,
    Written,
    partition_of,
)

WRITES = frozenset({"create", "update", "delete", "commit", "project"})


class StoreValue(MemoryStore):
    """An etag counts the writes of its own document, so that what is the same by another way is equal."""

    number: int

    def copy(self) -> StoreValue:
        stored = StoreValue(atomic_then=self._atomic_then)
        for name, partitions in self._docs.items():
            if partitions:
                stored._docs[name] = {partition: dict(docs) for partition, docs in partitions.items()}
        return stored

    def key(self) -> Hashable:
        return frozenset(
            (name, id_, *entry)
            for name, partitions in self._docs.items()
            for docs in partitions.values()
            for id_, entry in docs.items()
        )

    def docs(self, container: str) -> Iterator[Doc]:
        for docs in self._docs[container].values():
            for data, _ in docs.values():
                yield orjson.loads(data)

    def put(self, container: str, doc: Doc) -> str:
        docs = self._docs[container].setdefault(partition_of(container, doc), {})
        known = docs.get(doc["id"])
        etag = str(int(known[1]) + 1) if known else "1"
        docs[doc["id"]] = (orjson.dumps(doc), etag)
        return etag


class Answer(NamedTuple):
    """`key` stands for the value when two answers are compared."""

    key: Hashable
    value: Any = None
    trouble: Callable[[], StoreError] | None = None


UNKNOWN = Answer("unknown", trouble=lambda: Indefinite("nobody knows if it was applied"))
CONFLICT = Answer(Written(WriteStatus.CONFLICT), Written(WriteStatus.CONFLICT))
FULL = Answer("full", trouble=lambda: StoreFull("there is no room"))


@dataclass(eq=False, slots=True)
class Call:
    """What a coroutine waits for: one call of the store, which the walker makes when it is its turn."""

    method: str
    args: tuple[Any, ...]

    def __await__(self) -> Generator[Call, Any, Any]:
        return (yield self)

    @property
    def writes(self) -> bool:
        return self.method in WRITES

    @property
    def containers(self) -> frozenset[str]:
        """Whose documents it reads or writes."""
        if self.method in ("commit", "project"):
            return frozenset(write.container for writes in self.args for write in writes)
        where = self.args[0]
        return frozenset({where if isinstance(where, str) else where.container})

    def made(self, stored: StoreValue) -> Answer:
        """Applies it to `stored` itself."""
        value = finished(getattr(stored, self.method)(*self.args))
        return Answer(_key(value), value)

    def first(self, count: int) -> Call:
        """The projection torn: only its first writes."""
        return Call(self.method, (self.args[0][:count],))

    def __str__(self) -> str:
        match self.method:
            case "read":
                return f"read {self.args[0].id}"
            case "query":
                where = " ".join(f"{one.path}{one.compare}{one.value}" for one in self.args[0].where)
                return f"query {self.args[0].container} {where}".rstrip()
            case "commit":
                return f"commit {', '.join(_brief(write.doc) for write in self.args[0])}"
            case "project":
                return f"project {', '.join(write.doc['id'] for write in self.args[0])}"
            case "create" | "update":
                return f"{self.method} {self.args[0]} {_brief(self.args[1])}"
            case _:
                return self.method


def _brief(doc: Doc) -> str:
    said = " ".join(str(doc[name]) for name in ("stage", "seq", "jobId", "status", "expiresAt") if doc.get(name))
    return f"{doc['id']}[{said}]"


def _key(value: Any) -> Hashable:
    if isinstance(value, Written):
        return value
    if isinstance(value, Stored):
        return orjson.dumps(list(value))
    if isinstance(value, list):
        return tuple(_key(one) for one in value)
    return cast(Hashable, value)


def finished(coroutine: Any) -> Any:
    """The result of a coroutine that waits for nothing, as all of this store's do."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the store waited")


class Port:
    """The store as a coordinator under the walk sees it: every call waits for the walker."""

    def __init__(self, *, atomic_then: bool) -> None:
        self._atomic_then = atomic_then

    @property
    def atomic_then(self) -> bool:
        return self._atomic_then

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def read(self, at: Address) -> Stored | None:
        return cast(Stored | None, await Call("read", (at,)))

    async def create(self, container: str, doc: Doc) -> Written:
        return cast(Written, await Call("create", (container, doc)))

    async def update(self, container: str, doc: Doc, etag: str) -> Written:
        return cast(Written, await Call("update", (container, doc, etag)))

    async def delete(self, at: Address, etag: str) -> Written:
        return cast(Written, await Call("delete", (at, etag)))

    async def query(self, query: Query) -> list[Stored]:
        return cast(list[Stored], await Call("query", (query,)))

    async def commit(self, guarded: Sequence[Guarded], then: Sequence[Derived] = ()) -> Written:
        return cast(Written, await Call("commit", (tuple(guarded), tuple(then))))

    async def project(self, derived: Sequence[Derived]) -> None:
        await Call("project", (tuple(derived),))

    async def partitions(self, container: str, after: str | None = None, limit: int = 100) -> list[str]:
        return cast(list[str], await Call("partitions", (container, after, limit)))


class Fate(StrEnum):
    APPLIED = "applied"
    LOST = "lost"
    REFUSED = "refused for want of room"
    UNHEARD = "applied, its answer lost"
    ECHOED = "applied, then sent again by the client library: a conflict"
    LATE = "timed out, still on its way"
    TORN = "torn"
    DIED = "the coordinator dies before it"
    DIES = "applied, then the coordinator dies"


class CallOutcome(NamedTuple):
    """What may become of a call: the store afterwards, and the answer; None where its coordinator died."""

    fate: Fate
    stored: StoreValue
    answer: Answer | None
    flies: bool = False
