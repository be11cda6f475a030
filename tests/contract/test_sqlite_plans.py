"""No query walks a product's history: on a store of 100,000 documents each plan searches by an index made for it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from coordinator.loops.promoter import Promoter
from coordinator.loops.sweeper import Sweeper
from coordinator.store.port import EVENTS, INDEXED, INDEXES, JOBS, PARTITION_KEYS, RUNS, Query, Stored, Where
from coordinator.store.queries import event_with_op, events_after, jobs_held_by, jobs_in, runs_of
from coordinator.store.sqlite import SqliteStore, statement
from runtime.clock import SystemClock
from schemas.job import Stage
from tests.support.fleet import PRODUCT, coordinator

DOCUMENTS = 100_000
NOW = "2030-01-02T00:00:00.000000Z"
SEARCHES = re.compile(r"SEARCH (\S+) USING (?:COVERING )?INDEX (\S+) \((.*)\)$")


class NotingStore(SqliteStore):
    """Keeps what was asked of it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.asked: list[Query] = []

    async def query(self, query: Query) -> list[Stored]:
        self.asked.append(query)
        return await super().query(query)

    def plan(self, query: Query) -> list[str]:
        return [row[3] for row in self._rows(*_explained(query))]


def _explained(query: Query) -> tuple[str, list[Any]]:
    sql, values = statement(query)
    return f"EXPLAIN QUERY PLAN {sql}", values


def _document(number: int) -> dict[str, Any]:
    """Nearly all of a long-lived product's jobs are finished."""
    waiting = number % 1000 == 0
    return {
        "id": f"j{number:06}",
        "productId": PRODUCT,
        "stage": "queued" if waiting else "failed" if number % 10 == 1 else "shipped",
        "notBefore": None,
        "updatedAt": f"2030-01-01T00:00:00.{number:06}Z",
        "sortKey": f"2030-01-01T00:00:00.{number:06}Z:j{number:06}",
        "holder": {"factoryId": "f1"} if number == 7 else None,
        "pendingEvents": 0,
    }


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory, made by the store and filled behind its back."""
    folder = tmp_path_factory.mktemp("long-lived")
    store = SqliteStore(folder)
    with sqlite3.connect(folder / "fleet.db") as db:
        store._prepare(db)
    with db:
        rows = (
            (PRODUCT, f"j{number:06}", number + 1, orjson.dumps(_document(number)).decode())
            for number in range(DOCUMENTS)
        )
        db.executemany("INSERT INTO fleet_jobs (pk, id, etag, body) VALUES (?, ?, ?, ?)", rows)
    db.close()
    return folder


@pytest.fixture
async def store(filled: Path) -> AsyncIterator[NotingStore]:
    store = NotingStore(filled)
    await store.open()
    yield store
    await store.close()


SHIPPED = Where("stage", "=", "shipped")
QUERIES = {
    "jobs of some stages": Query(JOBS, PRODUCT, (Where("stage", "in", ("queued", "blocked", "assigned", "building")),)),
    "the same, a later page": Query(JOBS, PRODUCT, (Where("stage", "in", ("queued", "blocked")),), after="j050000"),
    "jobs that a factory holds": Query(JOBS, PRODUCT, (Where("holder.factoryId", "=", "f1"),)),
    "retries that are due": Query(JOBS, PRODUCT, (Where("stage", "=", "failed"), Where("notBefore", "<=", NOW))),
    "jobs that failed for good": Query(JOBS, PRODUCT, (Where("stage", "=", "failed"), Where("notBefore", "=", None))),
    "those of late": Query(
        JOBS, PRODUCT, (Where("stage", "=", "failed"), Where("notBefore", "=", None), Where("updatedAt", ">", NOW))
    ),
    "outboxes": Query(JOBS, PRODUCT, (Where("pendingEvents", ">", 0),)),
    "the list of jobs": Query(JOBS, PRODUCT, order="sortKey", descending=True),
    "the list of jobs of a stage": Query(JOBS, PRODUCT, (SHIPPED,), order="sortKey", descending=True),
    "a job's history": Query(EVENTS, "j1", order="seq", after=3),
    "the event of an operation": Query(EVENTS, "j1", (Where("opId", "=", "x"),), order="seq", descending=True, limit=1),
    "a job's runs": Query(RUNS, "j1", order="leaseEpoch", after=1),
}  # fmt: skip


@pytest.mark.parametrize("name", QUERIES)
async def test_each_plan_searches_its_index(store: NotingStore, name: str) -> None:
    query = QUERIES[name]
    plan = store.plan(query)
    searches = [found for line in plan if (found := SEARCHES.search(line))]
    assert searches, plan
    assert not [line for line in plan if line.startswith("SCAN") and query.container in line], plan
    for found in searches:
        assert found[1] == query.container
        assert found[2].startswith(f"by_{query.container}_"), plan
        assert found[3].startswith("pk=?"), plan
        assert ("<expr>" in found[3]) or not (query.where or query.after), plan


@pytest.mark.parametrize("name", QUERIES)
async def test_a_page_costs_no_more_than_what_it_finds(store: NotingStore, name: str) -> None:
    """Counted in steps of SQLite's machine: a walk of the partition would take some ten for each document."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    store._reader.set_progress_handler(step, 100)
    found = await store.query(QUERIES[name])
    store._reader.set_progress_handler(None, 0)
    assert steps * 100 < 20_000 + 100 * len(found)


async def test_what_the_coordinator_asks_is_among_these(store: NotingStore) -> None:
    ctx = coordinator(store, clock=SystemClock())
    now = ctx.clock.now()
    await jobs_held_by(store, [PRODUCT], "f1")
    await event_with_op(store, "j1", "x")
    await events_after(store, "j1", 3)
    await runs_of(store, "j1", 1)
    stages = (Stage.QUEUED, Stage.BLOCKED)
    assert [job async for job in jobs_in(store, PRODUCT, *stages)] == []  # the documents are no whole jobs
    for shape in (Promoter(ctx), Sweeper(ctx)):
        await shape.run_once(now)
    shapes = {_shape(query) for query in QUERIES.values()}
    assert {_shape(query) for query in store.asked if query.where or query.order != "id"} <= shapes


def _shape(query: Query) -> tuple[Any, ...]:
    return (
        query.container,
        tuple((where.path, where.compare, where.value is None) for where in query.where),
        query.order,
    )


def test_every_index_is_there_for_a_query_and_of_what_a_provider_may_index() -> None:
    used = {(query.container, query.index) for query in QUERIES.values()}
    assert used == {(container, paths) for container, indexes in INDEXES.items() for paths in indexes}
    for container, indexes in INDEXES.items():
        assert {path for paths in indexes for path in paths} - {"id"} <= set(INDEXED[container])


async def test_a_data_directory_of_an_older_release_gets_the_indexes_of_this_one(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "fleet.db") as db:
        for table in PARTITION_KEYS:
            db.execute(
                f"CREATE TABLE {table} "
                "(pk TEXT NOT NULL, id TEXT NOT NULL, etag INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (pk, id))"
            )
        for path in INDEXED[JOBS]:
            column = f"json_extract(body, '$.{path}')"
            db.execute(f"CREATE INDEX fleet_jobs_{path.replace('.', '_')} ON fleet_jobs (pk, {column})")
        row = (PRODUCT, "j000007", 1, orjson.dumps(_document(7)).decode())
        db.execute("INSERT INTO fleet_jobs (pk, id, etag, body) VALUES (?, ?, ?, ?)", row)
        db.execute("CREATE TABLE counter (etag INTEGER NOT NULL)")
        db.execute("INSERT INTO counter VALUES (1)")
        db.execute("PRAGMA user_version = 1")
    db.close()
    store = NotingStore(tmp_path)
    await store.open()
    (held,) = await store.query(QUERIES["jobs that a factory holds"])
    assert (held.doc["id"], held.etag) == ("j000007", "1")
    names = {row[0] for row in store._rows("SELECT name FROM sqlite_master WHERE type = 'index' AND sql NOT NULL", ())}
    assert len(names) == sum(len(indexes) for indexes in INDEXES.values())
    assert all(name.startswith("by_") for name in names)
    await store.close()
