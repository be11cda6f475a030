"""What any store must do, as one class of tests; each provider's test module subclasses it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator.store.port import (
    ABSENT,
    EVENTS,
    JOBS,
    LEASES,
    RUNS,
    Address,
    Derived,
    Guarded,
    Query,
    Store,
    Where,
    WriteStatus,
)


def job(job_id: str = "j1", product: str = "p1", **fields: Any) -> dict[str, Any]:
    return {"id": job_id, "productId": product, "stage": "queued", "sortKey": job_id, **fields}


def run(job_id: str, rev: int) -> dict[str, Any]:
    return {"id": f"{job_id}:1", "jobId": job_id, "productId": "p1", "rev": rev}


def at(job_id: str = "j1", product: str = "p1") -> Address:
    return Address(JOBS, product, job_id)


async def created(store: Store, doc: dict[str, Any]) -> str:
    written = await store.create(JOBS, doc)
    assert written.ok
    return written.etags[0]


class StoreContract:
    @pytest.fixture
    async def store(self) -> Store:
        raise AssertionError("the subclass gives the store")

    async def test_what_was_created_is_read_as_it_was_written(self, store: Store) -> None:
        doc = job(title="träume 🚀", holder={"factoryId": "f1"}, nothing=None, many=[1, 2.5, True])
        etag = await created(store, doc)
        stored = await store.read(at())
        assert stored is not None
        assert stored.etag == etag
        assert stored.doc == doc

    async def test_a_missing_document_is_none(self, store: Store) -> None:
        assert await store.read(at("nowhere")) is None

    async def test_what_a_reader_does_to_its_copy_stays_with_it(self, store: Store) -> None:
        await created(store, job(holder={"factoryId": "f1"}))
        first = await store.read(at())
        assert first is not None
        first.doc["holder"]["factoryId"] = "thief"
        again = await store.read(at())
        assert again is not None
        assert again.doc["holder"] == {"factoryId": "f1"}

    async def test_an_id_is_created_once_and_partitions_do_not_mix(self, store: Store) -> None:
        await created(store, job())
        assert (await store.create(JOBS, job(stage="failed"))).status is WriteStatus.CONFLICT
        await created(store, job(product="p2", stage="blocked"))
        mine, other = await store.read(at()), await store.read(at(product="p2"))
        assert mine is not None
        assert other is not None
        assert (mine.doc["stage"], other.doc["stage"]) == ("queued", "blocked")

    async def test_an_update_with_the_read_etag_is_ok_and_moves_it(self, store: Store) -> None:
        etag = await created(store, job())
        written = await store.update(JOBS, job(stage="assigned"), etag)
        assert written.ok
        assert written.etags[0] != etag
        stored = await store.read(at())
        assert stored is not None
        assert (stored.doc["stage"], stored.etag) == ("assigned", written.etags[0])

    async def test_an_update_with_an_old_etag_is_a_conflict_and_writes_nothing(self, store: Store) -> None:
        etag = await created(store, job())
        await store.update(JOBS, job(stage="assigned"), etag)
        assert (await store.update(JOBS, job(stage="failed"), etag)).status is WriteStatus.CONFLICT
        stored = await store.read(at())
        assert stored is not None
        assert stored.doc["stage"] == "assigned"

    async def test_an_update_of_nothing_is_not_found_and_creates_nothing(self, store: Store) -> None:
        etag = await created(store, job("other"))
        assert (await store.update(JOBS, job(), etag)).status is WriteStatus.NOT_FOUND
        assert await store.read(at()) is None

    async def test_a_delete_wants_the_etag_too(self, store: Store) -> None:
        etag = await created(store, job())
        moved = (await store.update(JOBS, job(stage="assigned"), etag)).etags[0]
        assert (await store.delete(at(), etag)).status is WriteStatus.CONFLICT
        assert (await store.delete(at(), moved)).ok
        assert (await store.delete(at(), moved)).status is WriteStatus.NOT_FOUND
        assert await store.read(at()) is None

    async def test_an_etag_never_recurs_even_after_deletion(self, store: Store) -> None:
        seen = []
        for _ in range(3):
            etag = await created(store, job())
            moved = (await store.update(JOBS, job(stage="assigned"), etag)).etags[0]
            seen += [etag, moved]
            assert (await store.delete(at(), moved)).ok
        assert len(set(seen)) == len(seen)

    async def test_of_many_updates_from_one_read_exactly_one_wins(self, store: Store) -> None:
        etag = await created(store, job())
        verdicts = await asyncio.gather(
            *(store.update(JOBS, job(stage="assigned", by=number), etag) for number in range(20))
        )
        winners = [number for number, written in enumerate(verdicts) if written.ok]
        assert len(winners) == 1
        assert sum(written.status is WriteStatus.CONFLICT for written in verdicts) == 19
        stored = await store.read(at())
        assert stored is not None
        assert stored.doc["by"] == winners[0]

    async def test_of_many_creates_of_one_id_exactly_one_wins(self, store: Store) -> None:
        verdicts = await asyncio.gather(*(store.create(JOBS, job(by=number)) for number in range(20)))
        assert sum(written.ok for written in verdicts) == 1

    async def test_a_commit_writes_all_its_documents(self, store: Store) -> None:
        etag = await created(store, job())
        lock = {"id": "lock:repo", "productId": "p1", "jobId": "j1"}
        written = await store.commit(
            [Guarded(JOBS, job(stage="assigned"), etag), Guarded(JOBS, lock, ABSENT)],
        )
        assert written.ok
        assert len(written.etags) == 2
        first, second = await store.read(at()), await store.read(at("lock:repo"))
        assert first is not None
        assert second is not None
        assert (first.etag, second.etag) == written.etags
        assert second.doc == lock

    @pytest.mark.parametrize("stale", ["job", "lock"])
    async def test_a_commit_with_one_stale_etag_of_two_writes_nothing(self, store: Store, stale: str) -> None:
        etags = {}
        for name, doc in (("job", job()), ("lock", job("lock:repo"))):
            etag = await created(store, doc)
            if name == stale:
                assert (await store.update(JOBS, {**doc, "stage": "moved"}, etag)).ok
            etags[name] = etag
        written = await store.commit(
            [
                Guarded(JOBS, job(stage="assigned"), etags["job"]),
                Guarded(JOBS, job("lock:repo", stage="assigned"), etags["lock"]),
            ]
        )
        assert written.status is WriteStatus.CONFLICT
        for job_id in ("j1", "lock:repo"):
            stored = await store.read(at(job_id))
            assert stored is not None
            assert stored.doc["stage"] != "assigned"

    async def test_a_commit_that_expects_absence_is_refused_by_presence(self, store: Store) -> None:
        etag = await created(store, job())
        await created(store, job("lock:repo"))
        written = await store.commit(
            [Guarded(JOBS, job(stage="assigned"), etag), Guarded(JOBS, job("lock:repo", by=2), ABSENT)]
        )
        assert written.status is WriteStatus.CONFLICT
        stored = await store.read(at())
        assert stored is not None
        assert stored.doc["stage"] == "queued"

    async def test_of_many_commits_over_one_guard_exactly_one_wins(self, store: Store) -> None:
        etags = [await created(store, job(f"j{number}")) for number in range(10)]
        guard = await created(store, job("lock:repo"))
        written = await asyncio.gather(
            *(
                store.commit(
                    [
                        Guarded(JOBS, job(f"j{number}", stage="assigned"), etags[number]),
                        Guarded(JOBS, job("lock:repo", by=number), guard),
                    ]
                )
                for number in range(10)
            )
        )
        assert sum(one.ok for one in written) == 1
        docs = [await store.read(at(f"j{number}")) for number in range(10)]
        assert sum(stored is not None and stored.doc["stage"] == "assigned" for stored in docs) == 1

    async def test_a_refused_commit_projects_nothing(self, store: Store) -> None:
        etag = await created(store, job())
        await store.update(JOBS, job(stage="assigned"), etag)
        event = {"id": "j1:1", "jobId": "j1", "productId": "p1", "seq": 1}
        assert not (await store.commit([Guarded(JOBS, job(), etag)], [Derived(EVENTS, event)])).ok
        assert await store.read(Address(EVENTS, "j1", "j1:1")) is None

    async def test_an_accepted_commit_projects_into_other_containers(self, store: Store) -> None:
        etag = await created(store, job())
        event = {"id": "j1:1", "jobId": "j1", "productId": "p1", "seq": 1}
        derived = [Derived(EVENTS, event), Derived(RUNS, run("j1", 1), rev=1)]
        assert (await store.commit([Guarded(JOBS, job(stage="assigned"), etag)], derived)).ok
        stored = await store.read(Address(EVENTS, "j1", "j1:1"))
        assert stored is not None
        assert stored.doc == event
        assert await store.read(Address(RUNS, "j1", "j1:1")) is not None

    async def test_a_projection_without_rev_never_overwrites(self, store: Store) -> None:
        lease = {"id": "j1:1", "jobId": "j1", "productId": "p1", "status": "closed"}
        assert (await store.create(LEASES, lease)).ok
        await store.project([Derived(LEASES, {**lease, "status": "active"})])
        stored = await store.read(Address(LEASES, "j1", "j1:1"))
        assert stored is not None
        assert stored.doc["status"] == "closed"

    async def test_a_projection_is_replaced_only_by_a_newer_one(self, store: Store) -> None:
        for rev, expected in ((2, 2), (1, 2), (2, 2), (5, 5)):
            await store.project([Derived(RUNS, run("j1", rev), rev=rev)])
            stored = await store.read(Address(RUNS, "j1", "j1:1"))
            assert stored is not None
            assert stored.doc["rev"] == expected

    async def test_a_query_pages_through_one_partition_in_order(self, store: Store) -> None:
        for number in range(7):
            await created(store, job(f"j{number}", sortKey=f"2030-{9 - number}"))
        await created(store, job("alien", product="p2"))
        for descending in (False, True):
            seen: list[str] = []
            after: str | int | None = None
            while page := await store.query(
                Query(JOBS, "p1", order="sortKey", after=after, limit=3, descending=descending)
            ):
                assert len(page) <= 3
                seen += [stored.doc["id"] for stored in page]
                after = page[-1].doc["sortKey"]
            assert seen == [f"j{number}" for number in (range(7) if descending else reversed(range(7)))]

    async def test_a_query_filters_by_value_by_set_by_order_and_by_absence(self, store: Store) -> None:
        await created(store, job("a", stage="queued", pendingEvents=0, notBefore=None))
        await created(store, job("b", stage="failed", pendingEvents=2, notBefore="2030-01-01"))
        await created(store, job("c", stage="building", pendingEvents=1, holder={"factoryId": "f1"}))

        async def ids(*where: Where) -> list[str]:
            return [stored.doc["id"] for stored in await store.query(Query(JOBS, "p1", where))]

        assert await ids(Where("stage", "=", "failed")) == ["b"]
        assert await ids(Where("stage", "in", ("failed", "building"))) == ["b", "c"]
        assert await ids(Where("pendingEvents", ">", 0)) == ["b", "c"]
        failed, queued = Where("stage", "=", "failed"), Where("stage", "=", "queued")
        assert await ids(failed, Where("notBefore", "<=", "2030-02-01")) == ["b"]
        assert await ids(failed, Where("notBefore", "=", None)) == []
        assert await ids(queued, Where("notBefore", "=", None)) == ["a"]
        assert await ids(Where("holder.factoryId", "=", "f1")) == ["c"]
        assert await ids(Where("holder.factoryId", "=", "f1"), Where("stage", "=", "failed")) == []

    async def test_a_query_for_several_values_pages_through_them_in_one_order(self, store: Store) -> None:
        stages = ("queued", "failed", "building")
        for number in range(7):
            await created(store, job(f"j{number}", stage=stages[number % 3], sortKey=f"2030-{number}"))
        where = (Where("stage", "in", ("building", "queued")),)
        for order, descending in (("id", False), ("sortKey", True)):
            seen: list[str] = []
            after: str | int | None = None
            while page := await store.query(
                Query(JOBS, "p1", where, order=order, after=after, limit=2, descending=descending)
            ):
                seen += [stored.doc["id"] for stored in page]
                after = page[-1].doc[order]
            assert seen == (["j6", "j5", "j3", "j2", "j0"] if descending else ["j0", "j2", "j3", "j5", "j6"])

    async def test_a_query_that_no_index_serves_is_a_mistake(self, store: Store) -> None:
        with pytest.raises(AssertionError, match="no index serves"):
            Query(JOBS, "p1", (Where("priority", "=", "high"),))
        with pytest.raises(AssertionError, match="no index serves"):
            Query(JOBS, "p1", order="updatedAt")

    async def test_a_query_gives_etags_that_conditional_writes_accept(self, store: Store) -> None:
        await created(store, job())
        (stored,) = await store.query(Query(JOBS, "p1"))
        assert (await store.update(JOBS, job(stage="assigned"), stored.etag)).ok

    async def test_a_query_orders_numbers_as_numbers(self, store: Store) -> None:
        for seq in (10, 9, 100):
            event = {"id": f"j1:{seq}", "jobId": "j1", "productId": "p1", "seq": seq}
            assert (await store.create(EVENTS, event)).ok
        page = await store.query(Query(EVENTS, "j1", order="seq", after=9))
        assert [stored.doc["seq"] for stored in page] == [10, 100]

    async def test_partitions_are_listed_once_each_in_pages(self, store: Store) -> None:
        for product in ("pb", "pa", "pc"):
            await created(store, job(product=product))
            await created(store, job("j2", product=product))
        assert await store.partitions(JOBS, limit=2) == ["pa", "pb"]
        assert await store.partitions(JOBS, after="pb", limit=2) == ["pc"]
        assert await store.partitions(LEASES) == []
