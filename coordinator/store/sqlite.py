"""The embedded default: SQLite in a locked data directory, durable on one machine.

One thread writes. What is asked while a batch is on its way to the disk makes up the next batch: many commits
share one fsync, each in a savepoint of its own, and each is answered after that fsync. Reads are bounded point
reads and indexed pages of a local file; they are done in place, since handing one to a thread costs more than
the read itself. A failed fsync ends the process: nobody knows any more what the disk holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import queue
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import orjson

from coordinator.store.port import (
    ABSENT,
    INDEXES,
    PARTITION_KEYS,
    Absent,
    Address,
    Derived,
    Doc,
    Guarded,
    Indefinite,
    Query,
    Stored,
    StoreError,
    StoreFull,
    Where,
    WriteStatus,
    Written,
)
from runtime.lockfile import AlreadyLocked, LockFile

SCHEMA_VERSION = 2  # 1: an index for each path, of which no query could use any
BATCH_MAX = 256
EXIT_STORE_LOST = 74  # EX_IOERR


def end_process(why: str) -> NoReturn:
    sys.stderr.write(f"coordinator: {why}; ending, because what the disk holds is not known any more\n")
    sys.stderr.flush()
    os._exit(EXIT_STORE_LOST)


@dataclass
class _Asked:
    work: Callable[[sqlite3.Connection], Written]
    answer: asyncio.Future[Written]
    loop: asyncio.AbstractEventLoop


class SqliteStore:
    """`max_pages` bounds the file's size (SQLite pages of 4 KiB)."""

    atomic_then = True

    def __init__(
        self,
        directory: Path,
        *,
        max_pages: int | None = None,
        on_fatal: Callable[[str], NoReturn] = end_process,
    ) -> None:
        self._directory = directory
        self._max_pages = max_pages
        self._on_fatal = on_fatal
        self._asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock: LockFile | None = None
        self._etag = 0
        self._closing = False

    async def open(self) -> None:
        try:
            self._lock = LockFile(self._directory / "coordinator.lock")
        except AlreadyLocked as held:
            raise StoreError(f"the data directory {self._directory} is in use by process {held.pid}") from held
        except OSError as error:
            raise StoreError(f"the data directory {self._directory} cannot be used: {error.strerror}") from error
        try:
            self._writer = self._connect()
            self._prepare(self._writer)
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only = ON")
        except (sqlite3.Error, StoreError) as error:
            self._lock.release()
            raise StoreError(f"{self._path}: {error}") from error
        self._thread = threading.Thread(target=self._write_batches, name="sqlite-writer", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        if self._thread is None:
            return
        self._closing = True  # nothing is asked behind the end of the queue
        self._asked.put(None)
        await asyncio.to_thread(self._thread.join)
        self._thread = None
        self._reader.close()
        self._writer.close()
        assert self._lock is not None
        self._lock.release()

    async def read(self, at: Address) -> Stored | None:
        row = self._rows(f"SELECT body, etag FROM {at.container} WHERE pk = ? AND id = ?", (at.partition, at.id))
        return Stored(orjson.loads(row[0][0]), str(row[0][1])) if row else None

    async def create(self, container: str, doc: Doc) -> Written:
        return await self.commit([Guarded(container, doc, ABSENT)])

    async def update(self, container: str, doc: Doc, etag: str) -> Written:
        return await self.commit([Guarded(container, doc, etag)])

    async def delete(self, at: Address, etag: str) -> Written:
        def work(db: sqlite3.Connection) -> Written:
            gone = db.execute(
                f"DELETE FROM {at.container} WHERE pk = ? AND id = ? AND etag = ?",
                (at.partition, at.id, _number(etag)),
            )
            return Written(WriteStatus.OK) if gone.rowcount else Written(_why_not(db, at))

        return await self._ask(work)

    async def query(self, query: Query) -> list[Stored]:
        return [Stored(orjson.loads(body), str(etag)) for body, etag in self._rows(*statement(query))]

    async def commit(self, guarded: Sequence[Guarded], then: Sequence[Derived] = ()) -> Written:
        assert len({write.address.partition for write in guarded}) <= 1
        bodies = [orjson.dumps(write.doc) for write in guarded]
        derived = [(write, orjson.dumps(write.doc)) for write in then]

        def work(db: sqlite3.Connection) -> Written:
            etags = []
            for write, body in zip(guarded, bodies, strict=True):
                verdict = self._put_if(db, write, body)
                if verdict is not WriteStatus.OK:
                    return Written(verdict)
                etags.append(str(self._etag))
            self._put_derived(db, derived)
            return Written(WriteStatus.OK, tuple(etags))

        return await self._ask(work)

    async def project(self, derived: Sequence[Derived]) -> None:
        await self.commit([], derived)

    async def partitions(self, container: str, after: str | None = None, limit: int = 100) -> list[str]:
        """One search for each partition: a DISTINCT would read every document's key."""
        following = f"SELECT min(pk) FROM {container} WHERE pk >"
        sql = (
            f"WITH RECURSIVE found (pk) AS ({following} ? UNION ALL "
            f"SELECT ({following} found.pk) FROM found WHERE found.pk IS NOT NULL) "
            "SELECT pk FROM found WHERE pk IS NOT NULL LIMIT ?"
        )
        return [row[0] for row in self._rows(sql, (after or "", limit))]

    @property
    def _path(self) -> Path:
        return self._directory / "fleet.db"

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5.0)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if sys.platform == "darwin":
            db.execute("PRAGMA fullfsync = ON")
        if self._max_pages is not None:
            db.execute(f"PRAGMA max_page_count = {self._max_pages}")
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"this data is of version {version}, made by a newer release; this one knows up to {SCHEMA_VERSION}"
            )
        db.execute("BEGIN IMMEDIATE")
        if version < SCHEMA_VERSION:
            _drop_indexes(db)
        for table in PARTITION_KEYS:
            db.execute(
                f"CREATE TABLE IF NOT EXISTS {table} "
                "(pk TEXT NOT NULL, id TEXT NOT NULL, etag INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (pk, id))"
            )
            for paths in INDEXES.get(table, ()):
                columns = ", ".join(_column(path) for path in paths)
                db.execute(f"CREATE INDEX IF NOT EXISTS {_index_name(table, paths)} ON {table} (pk, {columns})")
        db.execute("CREATE TABLE IF NOT EXISTS counter (etag INTEGER NOT NULL)")
        db.execute("INSERT INTO counter SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM counter)")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
        self._etag = db.execute("SELECT etag FROM counter").fetchone()[0]

    def _rows(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error

    async def _ask(self, work: Callable[[sqlite3.Connection], Written]) -> Written:
        if self._thread is None or self._closing:
            raise StoreError("the store is closed")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Written] = loop.create_future()
        self._asked.put(_Asked(work, answer, loop))
        return await answer

    def _put_if(self, db: sqlite3.Connection, write: Guarded, body: bytes) -> WriteStatus:
        at = write.address
        self._etag += 1
        if isinstance(write.expected, Absent):
            done = db.execute(
                f"INSERT INTO {at.container} (pk, id, etag, body) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (at.partition, at.id, self._etag, body.decode()),
            )
            return WriteStatus.OK if done.rowcount else WriteStatus.CONFLICT
        done = db.execute(
            f"UPDATE {at.container} SET body = ?, etag = ? WHERE pk = ? AND id = ? AND etag = ?",
            (body.decode(), self._etag, at.partition, at.id, _number(write.expected)),
        )
        return WriteStatus.OK if done.rowcount else _why_not(db, at)

    def _put_derived(self, db: sqlite3.Connection, derived: Sequence[tuple[Derived, bytes]]) -> None:
        for write, body in derived:
            at = write.address
            newer = "NOTHING"
            if write.rev is not None:
                rev = "json_extract({}.body, '$.rev')"
                newer = (
                    "UPDATE SET body = excluded.body, etag = excluded.etag "
                    f"WHERE {rev.format('excluded')} > {rev.format(at.container)}"
                )
            self._etag += 1
            db.execute(
                f"INSERT INTO {at.container} (pk, id, etag, body) VALUES (?, ?, ?, ?) ON CONFLICT (pk, id) DO {newer}",
                (at.partition, at.id, self._etag, body.decode()),
            )

    def _write_batches(self) -> None:
        while True:
            batch = [self._asked.get()]
            while len(batch) < BATCH_MAX and batch[-1] is not None:
                try:
                    batch.append(self._asked.get_nowait())
                except queue.Empty:
                    break
            asked = [item for item in batch if item is not None]
            if asked:
                try:
                    answers = self._write_batch([item.work for item in asked])
                except Exception as error:
                    self._on_fatal(f"{self._path}: the writer failed ({error!r})")
                _answer(asked, answers)
            if batch[-1] is None:
                return

    def _write_batch(self, works: list[Callable[[sqlite3.Connection], Written]]) -> list[Written | StoreError]:
        db = self._writer
        answers: list[Written | StoreError] = []
        try:
            db.execute("BEGIN IMMEDIATE")
            for work in works:
                answers.append(_in_savepoint(db, work))
            db.execute("UPDATE counter SET etag = ?", (self._etag,))
        except sqlite3.Error as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            return [_definite(error)] * len(works)
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if _is_full(error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
                return [_definite(error)] * len(works)
            self._on_fatal(f"{self._path}: the commit failed ({error})")
        return answers


def _in_savepoint(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], Written]) -> Written | StoreError:
    db.execute("SAVEPOINT one")
    answer: Written | StoreError
    try:
        answer = work(db)
        keep = answer.ok
    except sqlite3.Error as error:
        if not db.in_transaction:
            raise  # SQLite has rolled the whole batch back
        answer, keep = _definite(error), False
    except Exception as error:
        answer, keep = StoreError(f"this write cannot be made: {error!r}"), False
    if not keep:
        db.execute("ROLLBACK TO one")
    db.execute("RELEASE one")
    return answer


def _answer(asked: list[_Asked], answers: list[Written | StoreError]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Asked, Written | StoreError]]] = {}
    for item, answer in zip(asked, answers, strict=True):
        by_loop.setdefault(item.loop, []).append((item, answer))
    for loop, pairs in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there any more
            loop.call_soon_threadsafe(_settle, pairs)


def _settle(pairs: list[tuple[_Asked, Written | StoreError]]) -> None:
    for item, answer in pairs:
        if item.answer.done():
            continue
        if isinstance(answer, StoreError):
            item.answer.set_exception(answer)
        else:
            item.answer.set_result(answer)


def _is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _definite(error: sqlite3.Error) -> StoreError:
    if _is_full(error):
        return StoreFull("the disk is full: nothing was written; make room and ask again")
    return Indefinite(f"SQLite: {error}")


def _number(etag: str) -> int:
    return int(etag) if etag.isdigit() else -1


def _why_not(db: sqlite3.Connection, at: Address) -> WriteStatus:
    found = db.execute(f"SELECT 1 FROM {at.container} WHERE pk = ? AND id = ?", (at.partition, at.id)).fetchone()
    return WriteStatus.CONFLICT if found else WriteStatus.NOT_FOUND


def _column(path: str) -> str:
    assert all(part.isidentifier() for part in path.split(".")), path
    return "id" if path == "id" else f"json_extract(body, '$.{path}')"


def _index_name(table: str, paths: Sequence[str]) -> str:
    return "_".join(("by", table, *(path.replace(".", "_") for path in paths)))


def _drop_indexes(db: sqlite3.Connection) -> None:
    """Those that an older release made; what SQLite keeps for primary keys has no statement and stays."""
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall():
        db.execute(f"DROP INDEX {name}")


def statement(query: Query) -> tuple[str, list[Any]]:
    """The SELECT for a query, and its values. It names its index: the planner has no statistics and would answer an
    ORDER BY id by a walk of the whole partition. Each value of an `in` is a search of its own, bounded and in order;
    the searches are merged.
    """
    order, direction = _column(query.order), "DESC" if query.descending else "ASC"
    index = query.index
    source = query.container if index is None else f"{query.container} INDEXED BY {_index_name(query.container, index)}"
    searches: list[str] = []
    values: list[Any] = []
    for fixed in _each_alternative(query.where):
        conditions = ["pk = ?", f"{order} IS NOT NULL"]
        arguments: list[Any] = [query.partition]
        for where in fixed:
            condition, more = _condition(where)
            conditions.append(condition)
            arguments += more
        if query.after is not None:
            conditions.append(f"{order} {'<' if query.descending else '>'} ?")
            arguments.append(query.after)
        searches.append(
            f"SELECT body, etag, {order} AS place FROM {source} "
            f"WHERE {' AND '.join(conditions)} ORDER BY {order} {direction} LIMIT ?"
        )
        values += [*arguments, query.limit]
    if len(searches) == 1:
        return f"SELECT body, etag FROM ({searches[0]})", values
    merged = " UNION ALL ".join(f"SELECT * FROM ({search})" for search in searches)
    return f"SELECT body, etag FROM ({merged}) ORDER BY place {direction} LIMIT ?", [*values, query.limit]


def _each_alternative(where: Sequence[Where]) -> list[list[Where]]:
    """The conditions with every `in` replaced by each of its values in turn."""
    choices = [[Where(one.path, "=", value) for value in one.value] if one.compare == "in" else [one] for one in where]
    return [list(chosen) for chosen in itertools.product(*choices)]


def _condition(where: Where) -> tuple[str, list[Any]]:
    column = _column(where.path)
    if where.value is None:
        assert where.compare == "="
        return f"{column} IS NULL", []
    return f"{column} {where.compare} ?", [where.value]
