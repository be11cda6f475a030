"""The store of a simulated fleet: the twin, seen writing, and the bad line to it that each coordinator has."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from chaos.history import History
from chaos.processes import Process
from coordinator.store.memory import MemoryStore
from coordinator.store.port import (
    EVENTS,
    JOBS,
    PARTITION_KEYS,
    Doc,
    Indefinite,
    StoreUnreachable,
    Throttled,
    WriteStatus,
    Written,
)

WRITES = frozenset({"create", "update", "delete", "commit", "project"})
TIMEOUT_S = 5.0
LATEST_S = 10.0  # how long after its asker has been told of a timeout a write may still land
Call = Callable[[], Awaitable[Any]]


class SeenStore(MemoryStore):
    """Notes each event of a job at the true moment when a commit made it so."""

    def __init__(self, history: History, *, atomic_then: bool) -> None:
        super().__init__(atomic_then=atomic_then)
        self._history = history
        self._seen: set[tuple[str, int, str]] = set()

    def put(self, container: str, doc: Doc) -> str:
        etag = super().put(container, doc)
        if container == EVENTS:
            self._note(doc)
        elif container == JOBS and "stage" in doc:
            for event in doc["outbox"]:
                self._note(event)
        return etag

    def _note(self, event: Doc) -> None:
        key = (event["jobId"], event["seq"], event["opId"])
        if key not in self._seen:
            self._seen.add(key)
            names = ("productId", "jobId", "seq", "type", "leaseEpoch")
            now_s = asyncio.get_running_loop().time()
            self._history.note(now_s, "seen", "world", **{name: event[name] for name in names})

    def all_documents(self) -> dict[str, list[Doc]]:
        return {
            container: [doc for docs in self._docs[container].values() for doc in map(_parsed, docs.values())]
            for container in PARTITION_KEYS
            if self._docs[container]
        }


def _parsed(entry: tuple[bytes, str]) -> Doc:
    doc: Doc = orjson.loads(entry[0])
    return doc


class Weather:
    """Of each call: how probable each trouble is. `down`: nobody answers."""

    def __init__(self) -> None:
        self.down = False
        self.late_projections = 0.0
        self.share: dict[str, float] = {}


class StoreLine:
    """`doom`: after so many further writes the process dies, before that write or right after it."""

    def __init__(self, inner: MemoryStore, process: Process, chance: random.Random, weather: Weather) -> None:
        self.inner = inner
        self.calls = 0
        self.doom: tuple[int, bool, Callable[[], None]] | None = None
        self._process = process
        self._chance = chance
        self._weather = weather

    @property
    def atomic_then(self) -> bool:
        return self.inner.atomic_then

    def __getattr__(self, method: str) -> Any:
        target = getattr(self.inner, method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._call(method, lambda: target(*args, **kwargs))

        return call

    async def _call(self, method: str, call: Call) -> Any:
        writes = method in WRITES
        self.calls += 1
        await asyncio.sleep(self._chance.uniform(0.0005, 0.004))
        if writes and self.doom is not None:
            await self._doomed(call)
        if self._weather.down:
            await asyncio.sleep(self._chance.uniform(0.0, 0.5))
            raise (
                Indefinite("simulated: the store is away")
                if writes
                else StoreUnreachable("simulated: the store is away")
            )
        late = method == "project" and self._chance.random() < self._weather.late_projections
        trouble = "late" if late else self._trouble(writes)
        if trouble is None:
            answer = await call()
        else:
            answer = await self._troubled(trouble, call)
        if writes:  # a process may die between what it did and hearing of it
            await asyncio.sleep(self._chance.uniform(0.0, 0.002))
        return answer

    def _trouble(self, writes: bool) -> str | None:
        if not self._weather.share:
            return None
        drawn = self._chance.random()
        for name, share in self._weather.share.items():
            if drawn < share:
                return name if writes or name in ("throttled", "unavailable") else None
            drawn -= share
        return None

    async def _troubled(self, trouble: str, call: Call) -> Any:
        match trouble:
            case "throttled":
                raise Throttled("simulated: slow down", self._chance.uniform(0.01, 0.5))
            case "unavailable":
                raise Indefinite("simulated: 503")
            case "never":
                await self._given_up()
                raise Indefinite("simulated: never applied")
            case "unheard":
                await call()
                await self._given_up()
                raise Indefinite("simulated: applied, and the answer was lost")
            case "late":
                self._land_later(call)
                await self._given_up()
                raise Indefinite("simulated: still on its way")
            case _:  # resent: the client library sends again by itself, and meets its own success
                written = await call()
                if isinstance(written, Written) and written.ok:
                    return Written(WriteStatus.CONFLICT)
                return written

    async def _given_up(self) -> None:
        """A connection that breaks is noticed at once, one that falls silent by the timeout."""
        await asyncio.sleep(self._chance.choice((0.0, 0.05, TIMEOUT_S)))

    def _land_later(self, call: Call) -> None:
        """Belongs to no process: the write is on the wire already, and no death takes it back."""

        async def land() -> None:
            await asyncio.sleep(self._chance.uniform(0.0, TIMEOUT_S + LATEST_S))
            await call()

        asyncio.get_running_loop().create_task(land(), context=contextvars.Context())

    async def _doomed(self, call: Call) -> None:
        assert self.doom is not None
        writes, after, die = self.doom
        if writes > 1:
            self.doom = (writes - 1, after, die)
            return
        self.doom = None
        if after:
            await call()
        die()
        await asyncio.sleep(0)  # from which no dead process returns
