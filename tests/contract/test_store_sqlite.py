import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest

from coordinator.store.port import JOBS, Indefinite, Store, StoreError, StoreFull
from coordinator.store.sqlite import SCHEMA_VERSION, SqliteStore
from tests.contract.store_contract import StoreContract, at, created, job


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = SqliteStore(tmp_path)
        await store.open()
        yield store
        await store.close()

    async def test_what_was_answered_is_there_after_a_restart(self, tmp_path: Path) -> None:
        first = SqliteStore(tmp_path / "data")
        await first.open()
        etag = await created(first, job())
        await first.close()
        second = SqliteStore(tmp_path / "data")
        await second.open()
        stored = await second.read(at())
        assert stored is not None
        assert stored.etag == etag
        later = await created(second, job("j2"))
        assert int(later) > int(etag)
        await second.close()

    async def test_a_second_coordinator_is_told_the_first_ones_pid(self, tmp_path: Path) -> None:
        first = SqliteStore(tmp_path)
        await first.open()
        with pytest.raises(StoreError, match=f"in use by process {os.getpid()}"):
            await SqliteStore(tmp_path).open()
        await first.close()

    async def test_data_of_a_newer_version_is_refused(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "fleet.db") as db:
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        db.close()
        with pytest.raises(StoreError, match="made by a newer release"):
            await SqliteStore(tmp_path).open()

    async def test_a_file_where_the_directory_should_be_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "data").write_text("not a directory")
        with pytest.raises(StoreError, match="cannot be used"):
            await SqliteStore(tmp_path / "data").open()

    async def test_a_full_disk_refuses_definitely_and_room_makes_it_work_again(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path, max_pages=60)
        await store.open()
        refused = 0
        error: StoreFull | None = None
        while error is None and refused < 200:
            try:
                await created(store, job(f"j{refused}", bodyMd="x" * 8000))
                refused += 1
            except StoreFull as full:
                error = full
        assert refused > 0
        assert "the disk is full" in str(error)
        assert await store.read(at(f"j{refused}")) is None
        assert await store.read(at(f"j{refused - 1}")) is not None
        await store.close()
        roomy = SqliteStore(tmp_path)
        await roomy.open()
        await created(roomy, job(f"j{refused}", bodyMd="x" * 8000))
        await roomy.close()

    async def test_one_refused_commit_of_a_batch_does_not_touch_the_others(self, store: Store) -> None:
        etag = await created(store, job())
        answers = await asyncio.gather(
            store.create(JOBS, job("a")),
            store.update(JOBS, job(stage="assigned"), etag),
            store.create(JOBS, job()),
            store.create(JOBS, job("b")),
        )
        assert [written.ok for written in answers] == [True, True, False, True]
        assert await store.read(at("a")) is not None
        assert await store.read(at("b")) is not None

    async def test_a_write_that_cannot_be_made_is_refused_and_the_writer_goes_on(self, store: Store) -> None:
        etag = await created(store, job())
        beyond_sqlite = "9" * 30
        answers = await asyncio.gather(
            store.create(JOBS, job("a")),
            store.update(JOBS, job(stage="assigned"), beyond_sqlite),
            store.create(JOBS, job("b")),
            return_exceptions=True,
        )
        assert [isinstance(answer, StoreError) for answer in answers] == [False, True, False]
        assert "this write cannot be made" in str(answers[1])
        assert not isinstance(answers[1], Indefinite)
        assert (await store.update(JOBS, job(stage="assigned"), etag)).ok
        assert await store.read(at("a")) is not None
        assert await store.read(at("b")) is not None

    async def test_what_is_asked_while_the_store_closes_is_answered_or_refused(self, tmp_path: Path) -> None:
        store = SqliteStore(tmp_path)
        await store.open()
        before = asyncio.create_task(store.create(JOBS, job("a")))
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)  # the end of the writer's queue is set
        with pytest.raises(StoreError, match="the store is closed"):
            async with asyncio.timeout(5):
                await store.create(JOBS, job("b"))
        assert (await before).ok
        await closing
        again = SqliteStore(tmp_path)
        await again.open()
        assert await again.read(at("a")) is not None
        assert await again.read(at("b")) is None
        await again.close()

    async def test_a_failed_fsync_ends_the_process(self, tmp_path: Path) -> None:
        ended = []

        def on_fatal(why: str) -> NoReturn:
            ended.append(why)
            raise SystemExit

        store = SqliteStore(tmp_path, on_fatal=on_fatal)
        await store.open()

        class FailingCommit:
            in_transaction = True

            def execute(self, sql: str, *values: object) -> None:
                if sql == "COMMIT":
                    raise sqlite3.OperationalError("disk I/O error")

        real, store._writer = store._writer, FailingCommit()  # type: ignore[assignment]
        with pytest.raises(SystemExit):
            store._write_batch([])
        store._writer = real
        assert "the commit failed (disk I/O error)" in ended[0]
        await store.close()
