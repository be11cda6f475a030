"""Conditional writes per second: each provider with one and with many writers, SQLite beside its own raw rate."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from chaos.live.cosmos_server import CosmosServer
from coordinator.store.cosmos import CosmosStore
from coordinator.store.memory import MemoryStore
from coordinator.store.port import JOBS, Store
from coordinator.store.sqlite import SqliteStore

BODY = "x" * 1500  # about what a job document weighs


class Rate(NamedTuple):
    what: str
    writers: int
    per_s: float


async def conditional_writes(what: str, store: Store, writers: int, seconds: float) -> Rate:
    """Each writer replaces a document of its own over and over, each time with the etag of the last."""
    await store.open()
    until = time.perf_counter() + seconds

    async def write(number: int) -> int:
        doc = {"id": f"j{number}", "productId": "bench", "stage": "queued", "sortKey": f"{number}", "bodyMd": BODY}
        etag, done = (await store.create(JOBS, doc)).etags[0], 0
        while time.perf_counter() < until:
            written = await store.update(JOBS, {**doc, "rev": done}, etag)
            assert written.ok
            etag, done = written.etags[0], done + 1
        return done

    began = time.perf_counter()
    total = sum(await asyncio.gather(*(write(number) for number in range(writers))))
    rate = Rate(what, writers, total / (time.perf_counter() - began))
    await store.close()
    return rate


def raw_sqlite(directory: Path, seconds: float) -> Rate:
    """One transaction and one fsync for each write: what group commit is compared with."""
    db = sqlite3.connect(directory / "raw.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE docs (id TEXT PRIMARY KEY, etag INTEGER, body TEXT)")
    db.execute("INSERT INTO docs VALUES ('j', 0, ?)", (BODY,))
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        db.execute("UPDATE docs SET etag = ?, body = ? WHERE id = 'j' AND etag = ?", (done + 1, BODY, done))
        done += 1
    rate = done / (time.perf_counter() - began)
    db.close()
    return Rate("sqlite, raw: a transaction each", 1, rate)


async def measure(seconds: float = 2.0) -> list[Rate]:
    rates = [
        await conditional_writes("memory", MemoryStore(), 1, seconds),
        await conditional_writes("memory", MemoryStore(), 64, seconds),
    ]
    with tempfile.TemporaryDirectory() as folder:
        rates.append(raw_sqlite(Path(folder), seconds))
        for writers in (1, 64):
            store = SqliteStore(Path(folder) / f"w{writers}")
            rates.append(await conditional_writes("sqlite", store, writers, seconds))
    async with CosmosServer() as server:
        for writers in (1, 16):
            cosmos = CosmosStore(server.endpoint, server.key, database=f"bench{writers}")
            rates.append(await conditional_writes("cosmos (npm server)", cosmos, writers, seconds))
    return rates
