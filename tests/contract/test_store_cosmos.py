import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from azure.cosmos.aio import CosmosClient

from chaos.live.cosmos_server import Action, CosmosServer, HttpFault
from coordinator.store import port
from coordinator.store.cosmos import RETRY_AFTER_DEFAULT_S, SDK_RETRIES, CosmosStore
from coordinator.store.port import (
    ABSENT,
    EVENTS,
    JOBS,
    RUNS,
    Address,
    Derived,
    Guarded,
    Indefinite,
    Query,
    Store,
    StoreError,
    StoreFull,
    Throttled,
    Where,
    WriteStatus,
    Written,
)
from tests.contract.store_contract import StoreContract, at, created, job, run

pytestmark = pytest.mark.xdist_group("cosmos")

ALWAYS = 1000
EVENT = {"id": "j1:1", "jobId": "j1", "productId": "p1", "seq": 1}


@pytest.fixture
def server(cosmos_server: CosmosServer) -> CosmosServer:
    return cosmos_server


@pytest.fixture
async def calm(server: CosmosServer) -> AsyncIterator[CosmosServer]:
    """The server, whose troubles end with the test."""
    yield server
    await server.fault([])
    await server.account()


def new_store(server: CosmosServer, **options: float) -> CosmosStore:
    return CosmosStore(server.endpoint, server.key, database=f"test-{uuid4().hex}", **options)


@asynccontextmanager
async def opened(store: CosmosStore) -> AsyncIterator[CosmosStore]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


class TestCosmosStore(StoreContract):
    @pytest.fixture
    async def store(self, server: CosmosServer) -> AsyncIterator[Store]:
        async with opened(new_store(server)) as store:
            yield store


@pytest.mark.cosmos_account
class TestCosmosAccount(StoreContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        endpoint, key, database = os.environ["COSMOS_ENDPOINT"], os.environ["COSMOS_KEY"], f"test-{uuid4().hex}"
        try:
            async with opened(CosmosStore(endpoint, key, database=database)) as store:
                yield store
        finally:
            async with CosmosClient(endpoint, key) as client:
                await client.delete_database(database)


class TestOpening:
    async def test_session_consistency_is_refused(self, calm: CosmosServer) -> None:
        await calm.account(consistency="Session")
        with pytest.raises(StoreError, match=r"has Session consistency.*set its default consistency to Strong"):
            await new_store(calm).open()

    async def test_several_write_regions_are_refused(self, calm: CosmosServer) -> None:
        await calm.account(write_regions=2)
        with pytest.raises(StoreError, match=r"writes in 2 regions \(Region 1, Region 2\).*turn off"):
            await new_store(calm).open()

    async def test_a_server_that_is_down_is_said_in_a_sentence(self) -> None:
        server = CosmosServer()
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.kill)
        with pytest.raises(StoreError, match=f"Cosmos DB at {server.endpoint} cannot be used: open: .*onnect"):
            await new_store(server).open()

    async def test_a_server_that_hangs_is_said_in_time(self, calm: CosmosServer) -> None:
        await calm.fault([HttpFault(".*", "hang", ALWAYS)])
        with pytest.raises(StoreError, match=r"cannot be used: open: no answer within 0\.5 s"):
            await new_store(calm, slow_timeout_s=0.5).open()

    async def test_a_refused_key_is_said(self, calm: CosmosServer) -> None:
        await calm.fault([HttpFault("GET /", "status", ALWAYS, status=401)])
        with pytest.raises(StoreError, match=r"cannot be used: open: .*401"):
            await new_store(calm).open()

    async def test_a_key_that_is_none_is_said(self, server: CosmosServer) -> None:
        with pytest.raises(StoreError, match=r"the key for Cosmos DB at .* is not one"):
            await CosmosStore(server.endpoint, "a password?").open()

    async def test_two_coordinators_may_make_the_containers_at_once(self, server: CosmosServer) -> None:
        first = new_store(server)
        second = CosmosStore(server.endpoint, server.key, database=first._database)
        await asyncio.gather(first.open(), second.open())
        await created(first, job())
        assert await second.read(at()) is not None
        await first.close()
        await second.close()

    async def test_a_newly_indexed_path_is_added_to_an_older_container(
        self, server: CosmosServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = new_store(server)
        with monkeypatch.context() as older:
            older.setitem(port.INDEXED, JOBS, ("stage",))
            async with opened(store):
                await created(store, job())
        async with opened(store):
            policy = (await store._containers[JOBS].read())["indexingPolicy"]
            assert await store.read(at()) is not None
        included = {one["path"] for one in policy["includedPaths"]}
        assert included >= {"/productId/?", "/stage/?", "/holder/factoryId/?", "/sortKey/?"}
        assert [one["path"] for one in policy["excludedPaths"]] == ["/*"]

    async def test_a_closed_store_says_so(self, server: CosmosServer) -> None:
        store = new_store(server)
        async with opened(store):
            pass
        with pytest.raises(StoreError, match="the store is closed"):
            await store.read(at())


# What a fault of this kind does to a write that is sent again and again: the refusal, and whether it was applied.
FAULTS: dict[str, tuple[HttpFault, type[StoreError], bool]] = {
    "429": (HttpFault(".*", "status", ALWAYS, 429, {"x-ms-retry-after-ms": "30"}), Throttled, False),
    "403": (HttpFault(".*", "status", ALWAYS, 403), Indefinite, False),
    "408": (HttpFault(".*", "status", ALWAYS, 408), Indefinite, False),
    "449": (HttpFault(".*", "status", ALWAYS, 449), Indefinite, False),
    "500": (HttpFault(".*", "status", ALWAYS, 500), Indefinite, False),
    "503": (HttpFault(".*", "status", ALWAYS, 503), Indefinite, False),
    "drop": (HttpFault(".*", "drop", ALWAYS), Indefinite, False),
    "apply_then_drop": (HttpFault(".*", "apply_then_drop", ALWAYS), Indefinite, True),
}

Write = Callable[[Store, str], Awaitable[Written]]


async def create(store: Store, etag: str) -> Written:
    return await store.create(JOBS, job("new", stage="assigned"))


async def update(store: Store, etag: str) -> Written:
    return await store.update(JOBS, job(stage="assigned"), etag)


async def commit(store: Store, etag: str) -> Written:
    lock = Guarded(JOBS, job("lock:repo", stage="assigned"), ABSENT)
    return await store.commit([Guarded(JOBS, job(stage="assigned"), etag), lock])


async def delete(store: Store, etag: str) -> Written:
    return await store.delete(at(), etag)


async def applied(store: Store, write: Write) -> bool:
    """What the documents say, which is all that counts."""
    docs = {name: await store.read(at(name)) for name in ("j1", "new", "lock:repo")}
    stages = {name: None if stored is None else stored.doc["stage"] for name, stored in docs.items()}
    before = {"j1": "queued", "new": None, "lock:repo": None}
    after: dict[Write, dict[str, str | None]] = {
        create: {**before, "new": "assigned"},
        update: {**before, "j1": "assigned"},
        commit: {**before, "j1": "assigned", "lock:repo": "assigned"},
        delete: {**before, "j1": None},
    }
    assert stages in (before, after[write]), "a write was applied by halves"
    return stages == after[write]


class TestTrouble:
    @pytest.fixture
    async def store(self, calm: CosmosServer) -> AsyncIterator[CosmosStore]:
        async with opened(new_store(calm)) as store:
            yield store

    @pytest.mark.parametrize("write", [create, update, commit, delete])
    @pytest.mark.parametrize("kind", FAULTS)
    async def test_lasting_trouble_is_no_answer_and_the_document_tells(
        self, calm: CosmosServer, store: CosmosStore, write: Write, kind: str
    ) -> None:
        fault, refusal, happened = FAULTS[kind]
        etag = await created(store, job())
        await calm.fault([fault])
        try:
            verdict = (await write(store, etag)).status
        except StoreError as error:
            assert type(error) is refusal  # noqa: PT017 - or a verdict, where the HTTP stack sent it again
        else:
            assert (kind, verdict) in [
                ("apply_then_drop", WriteStatus.CONFLICT),
                ("apply_then_drop", WriteStatus.NOT_FOUND),
            ]
        await calm.fault([])
        assert await applied(store, write) is happened

    @pytest.mark.parametrize("write", [create, update, commit, delete])
    @pytest.mark.parametrize("action", ["drop", "apply_then_drop"])
    async def test_of_one_lost_answer_no_false_ok_and_no_false_refusal_comes(
        self, calm: CosmosServer, store: CosmosStore, write: Write, action: Action
    ) -> None:
        etag = await created(store, job())
        await calm.fault([HttpFault("^(POST|PUT|DELETE) ", action)])
        try:
            written = await write(store, etag)
        except Indefinite:
            assert await applied(store, write) is (action == "apply_then_drop")
        else:
            # The HTTP stack sent it again: the second answer is ok, or is a conflict with our own success.
            assert written.ok is (action == "drop")
            assert await applied(store, write)

    @pytest.mark.parametrize(("said_ms", "wait_s"), [("30", 0.03), (None, RETRY_AFTER_DEFAULT_S)])
    async def test_throttling_carries_the_wait_that_the_provider_asks_for(
        self, calm: CosmosServer, store: CosmosStore, said_ms: str | None, wait_s: float
    ) -> None:
        headers = {"x-ms-retry-after-ms": said_ms} if said_ms else {}
        await calm.fault([HttpFault("^POST ", "status", ALWAYS, 429, headers)])
        with pytest.raises(Throttled) as throttled:
            await create(store, "")
        assert throttled.value.retry_after_s == pytest.approx(wait_s)
        assert await calm.faults_left() == [ALWAYS - 1 - SDK_RETRIES]

    @pytest.mark.parametrize("kind", ["408", "500", "503", "drop", "apply_then_drop"])
    @pytest.mark.parametrize("write", [create, commit])
    async def test_the_library_does_not_repeat_what_we_shall_repeat(
        self, calm: CosmosServer, store: CosmosStore, write: Write, kind: str
    ) -> None:
        etag = await created(store, job())
        await calm.fault([FAULTS[kind][0]])
        with pytest.raises(Indefinite):
            await write(store, etag)
        assert await calm.faults_left() == [ALWAYS - 1]

    @pytest.mark.parametrize("write", [create, update, commit, delete])
    async def test_a_call_that_hangs_is_given_up_in_time(
        self, calm: CosmosServer, store: CosmosStore, write: Write
    ) -> None:
        etag = await created(store, job())
        await calm.fault([HttpFault(".*", "hang", ALWAYS)])
        patient_s, store._timeout_s = store._timeout_s, 0.3
        began = time.monotonic()
        with pytest.raises(Indefinite, match=r"no answer within 0\.3 s"):
            await write(store, etag)
        assert time.monotonic() - began < 3.0
        store._timeout_s = patient_s
        await calm.fault([])
        assert not await applied(store, write)

    async def test_reads_that_hang_are_given_up_too(self, calm: CosmosServer, store: CosmosStore) -> None:
        await calm.fault([HttpFault("/docs", "hang", ALWAYS)])
        store._timeout_s = store._slow_timeout_s = 0.3
        for ask in (store.read(at()), store.query(Query(JOBS, "p1")), store.partitions(JOBS)):
            with pytest.raises(Indefinite, match=r"no answer within 0\.3 s"):
                await ask

    async def test_a_document_that_is_too_large_is_refused_definitely(
        self, calm: CosmosServer, store: CosmosStore
    ) -> None:
        await calm.fault([HttpFault("^POST ", "status", status=413)])
        with pytest.raises(StoreError, match="larger than 2 MB") as refused:
            await create(store, "")
        assert not isinstance(refused.value, Indefinite)

    async def test_a_full_partition_is_said(self, calm: CosmosServer, store: CosmosStore) -> None:
        await calm.fault([HttpFault("^POST ", "status", status=403, headers={"x-ms-substatus": "1014"})])
        with pytest.raises(StoreFull, match="full"):
            await create(store, "")

    async def test_a_database_that_is_gone_is_not_an_absent_document(self) -> None:
        async with CosmosServer() as server, opened(new_store(server)) as store:
            etag = await created(store, job())
            await server.restart()
            with pytest.raises(StoreError, match="gone while in use"):
                await store.read(at())
            with pytest.raises(StoreError, match="gone while in use"):
                await commit(store, etag)

    async def test_a_server_that_dies_in_use_leaves_doubt(self) -> None:
        async with CosmosServer() as server, opened(new_store(server)) as store:
            etag = await created(store, job())
            await asyncio.to_thread(server.kill)
            for write in (create, update, commit, delete):
                with pytest.raises(Indefinite):
                    await write(store, etag)
            with pytest.raises(Indefinite):
                await store.read(at())

    async def test_of_thirty_batches_over_one_job_and_its_lock_one_wins(self, store: CosmosStore) -> None:
        etag, guard = await created(store, job()), await created(store, job("lock:repo"))
        verdicts = await asyncio.gather(
            *(
                store.commit([Guarded(JOBS, job(by=by), etag), Guarded(JOBS, job("lock:repo", by=by), guard)])
                for by in range(30)
            )
        )
        (winner,) = [by for by, written in enumerate(verdicts) if written.ok]
        assert sum(written.status is WriteStatus.CONFLICT for written in verdicts) == 29
        for name in ("j1", "lock:repo"):
            stored = await store.read(at(name))
            assert stored is not None
            assert stored.doc["by"] == winner

    async def test_a_commit_stands_though_its_projection_fails(
        self, calm: CosmosServer, store: CosmosStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        etag = await created(store, job())
        then = [Derived(EVENTS, EVENT), Derived(RUNS, run("j1", 1), rev=1)]
        await calm.fault([HttpFault(f"{EVENTS}/docs", "status", ALWAYS)])
        with caplog.at_level(logging.WARNING, logger="coordinator.store.cosmos"):
            assert (await store.commit([Guarded(JOBS, job(stage="assigned"), etag)], then)).ok
        assert "not all of it projected" in caplog.text
        await calm.fault([])
        assert await applied(store, update)
        assert await store.read(Address(EVENTS, "j1", "j1:1")) is None
        assert await store.read(Address(RUNS, "j1", "j1:1")) is not None
        await store.project(then)
        assert await store.read(Address(EVENTS, "j1", "j1:1")) is not None

    async def test_of_projections_at_once_the_newest_stays(self, store: CosmosStore) -> None:
        await asyncio.gather(*(store.project([Derived(RUNS, run("j1", rev), rev=rev)]) for rev in range(1, 7)))
        stored = await store.read(Address(RUNS, "j1", "j1:1"))
        assert stored is not None
        assert stored.doc["rev"] == 6

    async def test_a_projection_tells_of_its_trouble(self, calm: CosmosServer, store: CosmosStore) -> None:
        await calm.fault([HttpFault(f"{EVENTS}/docs", "status", ALWAYS)])
        with pytest.raises(Indefinite):
            await store.project([Derived(EVENTS, EVENT)])

    async def test_what_the_provider_charges_is_summed_per_operation(self, store: CosmosStore) -> None:
        etag = await created(store, job())
        assert (await update(store, "stale")).status is WriteStatus.CONFLICT
        assert (await update(store, etag)).ok
        await asyncio.gather(*(store.read(at()) for _ in range(5)))
        await store.query(Query(JOBS, "p1"))
        del store.request_units["open"]
        assert store.request_units == {"create": 1.0, "update": 2.0, "read": 5.0, "query": 1.0}


class TestQueries:
    @pytest.fixture
    async def store(self, server: CosmosServer) -> AsyncIterator[CosmosStore]:
        async with opened(new_store(server)) as store:
            yield store

    async def test_documents_without_the_key_are_not_in_its_order(self, store: CosmosStore) -> None:
        await created(store, job("a"))
        await created(store, job("b", notBefore=None))
        await created(store, job("c", notBefore="2030"))
        for descending in (False, True):
            page = await store.query(
                Query(JOBS, "p1", (Where("stage", "=", "queued"),), order="notBefore", descending=descending)
            )
            assert [stored.doc["id"] for stored in page] == ["c"]

    async def test_a_value_of_no_set_matches_nothing(self, store: CosmosStore) -> None:
        await created(store, job())
        assert await store.query(Query(JOBS, "p1", (Where("stage", "in", ()),))) == []

    async def test_a_value_is_never_taken_for_sql(self, store: CosmosStore) -> None:
        await created(store, job())
        hostile = 'x" OR true --'
        assert await store.query(Query(JOBS, "p1", (Where("stage", "=", hostile),))) == []
        assert await store.query(Query(JOBS, hostile)) == []
        with pytest.raises(AssertionError):
            await store.query(Query(JOBS, "p1", order='id"] OR true --'))

    async def test_many_rows_come_whole(self, store: CosmosStore) -> None:
        for first in range(0, 300, 50):
            docs = [job(f"j{number:03}", sortKey=f"{number:03}") for number in range(first, first + 50)]
            assert (await store.commit([Guarded(JOBS, doc, ABSENT) for doc in docs])).ok
        page = await store.query(Query(JOBS, "p1", order="sortKey", limit=300))
        assert [stored.doc["id"] for stored in page] == [f"j{number:03}" for number in range(300)]
