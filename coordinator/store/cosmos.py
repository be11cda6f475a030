"""Azure Cosmos DB for NoSQL: for coordinators on more than one machine.

A conditional write is a create, a replace or delete with If-Match, or one transactional batch of these, never
an upsert. The client library and its HTTP stack may send a request again after a lost connection, whatever
they are told, so that a conflict may be this store's own success: CONFLICT and NOT_FOUND of a write say what
the provider answered last, and the caller reads again and looks for its op id. All other doubt (no answer in
time, a broken connection, 403, 408, 410, 449, 5xx) raises Indefinite, 429 raises Throttled. A call that was
given up may still be applied later.
"""

from __future__ import annotations

import asyncio
import binascii
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import AzureError
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient, DatabaseProxy
from azure.cosmos.documents import DatabaseAccount
from azure.cosmos.exceptions import CosmosResourceExistsError, CosmosResourceNotFoundError

from coordinator.store.port import (
    ABSENT,
    COMMIT_DOCS_MAX,
    INDEXED,
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
    StoreUnreachable,
    Throttled,
    Where,
    WriteStatus,
    Written,
)

log = logging.getLogger(__name__)

UNCHANGED = MatchConditions.IfNotModified
# The smallest number that the library takes: 0 means its default, 9. It is for 429 alone, see `_connect`.
SDK_RETRIES = 1
PROJECT_TRIES_MAX = 8
RETRY_AFTER_DEFAULT_S = 0.1

_SYSTEM_FIELDS = frozenset({"_rid", "_self", "_etag", "_attachments", "_ts"})
_VERDICTS = {404: WriteStatus.NOT_FOUND, 409: WriteStatus.CONFLICT, 412: WriteStatus.CONFLICT}
# Refusals that a second sending of an applied write would not meet: these alone are definite.
_REFUSED = {400: "the request is malformed", 413: "the document is larger than 2 MB"}
# 404 also says that the container or database is gone, which must not pass for a document's absence.
_OWNER_MISSING = (404, 1003)
_PARTITION_FULL = (403, 1014)

_operation: ContextVar[str] = ContextVar("cosmos_operation", default="other")


class CosmosStore:
    """One per process. `timeout_s` bounds each call, `slow_timeout_s` opening and the listing of partitions.

    `request_units` sums what the provider charged, per operation, refused and repeated requests included.
    A database or container that is there already is used as it is, so throughput is set by making them first;
    only paths missing from a container's index policy are added.
    """

    atomic_then = False

    def __init__(
        self,
        endpoint: str,
        key: str,
        *,
        database: str = "gigafactory",
        timeout_s: float = 5.0,
        slow_timeout_s: float = 60.0,
    ) -> None:
        self._endpoint = endpoint
        self._key = key
        self._database = database
        self._timeout_s = timeout_s
        self._slow_timeout_s = slow_timeout_s
        self._client: CosmosClient | None = None
        self._containers: dict[str, ContainerProxy] = {}
        self.request_units: dict[str, float] = defaultdict(float)

    async def open(self) -> None:
        client = self._connect()
        async with AsyncExitStack() as on_failure:
            on_failure.push_async_callback(client.close)
            try:
                async with self._call("open", self._slow_timeout_s):
                    await client.__aenter__()
                    self._check(await client._get_database_account())  # there is no public way
                    self._containers = await _prepare(client, self._database)
            except Indefinite as error:
                raise StoreUnreachable(f"Cosmos DB at {self._endpoint} cannot be used: {error}") from error
            except binascii.Error as error:
                raise StoreError(f"the key for Cosmos DB at {self._endpoint} is not one: {error}") from error
            on_failure.pop_all()
        self._client = client

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def read(self, at: Address) -> Stored | None:
        async with self._call("read"):
            try:
                return _stored(await self._container(at.container).read_item(at.id, at.partition))
            except CosmosResourceNotFoundError as error:
                if _codes(error) == _OWNER_MISSING:
                    raise
                return None

    async def create(self, container: str, doc: Doc) -> Written:
        async def send(target: ContainerProxy) -> tuple[str, ...]:
            return _etag(await target.create_item(doc))

        return await self._write("create", container, send)

    async def update(self, container: str, doc: Doc, etag: str) -> Written:
        async def send(target: ContainerProxy) -> tuple[str, ...]:
            return _etag(await target.replace_item(doc["id"], doc, etag=etag, match_condition=UNCHANGED))

        return await self._write("update", container, send)

    async def delete(self, at: Address, etag: str) -> Written:
        async def send(target: ContainerProxy) -> tuple[str, ...]:
            await target.delete_item(at.id, at.partition, etag=etag, match_condition=UNCHANGED)
            return ()

        return await self._write("delete", at.container, send)

    async def query(self, query: Query) -> list[Stored]:
        async with self._call("query"):
            rows = await self._rows(query.container, *_sql(query), query.limit, query.partition)
            return [_stored(row) for row in rows]

    async def commit(self, guarded: Sequence[Guarded], then: Sequence[Derived] = ()) -> Written:
        """A batch lies in one container, too: Cosmos knows no transaction over several."""
        assert len({write.address[:2] for write in guarded}) <= 1
        assert len(guarded) <= COMMIT_DOCS_MAX
        written = await self._commit(guarded) if guarded else Written(WriteStatus.OK)
        try:
            await self.project(then if written.ok else ())
        except StoreError as error:
            log.warning("committed, but not all of it projected yet: %s", error)
        return written

    async def project(self, derived: Sequence[Derived]) -> None:
        """All are tried, whatever becomes of the others; then the first trouble, if any, is raised."""
        outcomes = await asyncio.gather(*(self._project(write) for write in derived), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def partitions(self, container: str, after: str | None = None, limit: int = 100) -> list[str]:
        """By leaps along the index, each over what is left of the last name: the price follows the names.

        DISTINCT may be priced by the documents, and the test server does not know it.
        """
        path = _path(PARTITION_KEYS[container])
        sql = f"SELECT VALUE {path} FROM c WHERE {path} > @after ORDER BY {path}"  # noqa: S608
        names: list[str] = []
        async with self._call("partitions", self._slow_timeout_s):
            while True:
                last = names[-1] if names else after or ""
                rows = await self._rows(container, sql, [{"name": "@after", "value": last}], limit)
                names += dict.fromkeys(rows)
                if len(rows) < limit or len(names) >= limit:
                    return names[:limit]

    def _connect(self) -> CosmosClient:
        """With as little repetition as the library allows: the caller repeats, since only it can tell.

        `retry_connect` is what sends a write again after a broken connection, up to three times by default.
        aiohttp's own repeat of PUT and DELETE can't be turned off.
        """
        return CosmosClient(
            self._endpoint,
            self._key,
            retry_total=SDK_RETRIES,
            retry_connect=0,
            retry_read=0,
            no_response_on_write=True,
            # What a plain-http server says of its regions' addresses begins with https.
            enable_endpoint_discovery=self._endpoint.startswith("https:"),
            raw_response_hook=self._charge,
        )

    def _check(self, account: DatabaseAccount) -> None:
        regions = [location["name"] for location in account.WritableLocations]
        if len(regions) != 1:
            raise StoreError(
                f"the Cosmos account at {self._endpoint} writes in {len(regions)} regions ({', '.join(regions)}), "
                "where a conditional write fences nothing: turn off its multi-region writes"
            )
        level = (account.ConsistencyPolicy or {}).get("defaultConsistencyLevel")
        if level != "Strong":
            raise StoreError(
                f"the Cosmos account at {self._endpoint} has {level} consistency, with which a stale read "
                "could fence a live holder: set its default consistency to Strong"
            )

    def _container(self, name: str) -> ContainerProxy:
        if self._client is None:
            raise StoreError("the store is closed")
        return self._containers[name]

    async def _rows(
        self, container: str, sql: str, parameters: list[dict[str, Any]], limit: int, partition: str | None = None
    ) -> list[Any]:
        """The first `limit` rows, of all partitions if None. Pages may come short: the library asks for more."""
        rows: list[Any] = []
        async for row in self._container(container).query_items(
            sql, parameters=parameters, partition_key=partition, max_item_count=limit
        ):
            rows.append(row)
            if len(rows) == limit:
                break
        return rows

    def _charge(self, response: Any) -> None:
        """For each HTTP response: the library's own hook sees neither refusals nor what it repeats."""
        self.request_units[_operation.get()] += float(response.http_response.headers.get("x-ms-request-charge", 0))

    @asynccontextmanager
    async def _call(self, operation: str, timeout_s: float | None = None) -> AsyncIterator[None]:
        """One operation: bounded in time, its charges booked, its trouble put into the port's words."""
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        token = _operation.set(operation)
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError as error:
            raise Indefinite(f"{operation}: no answer within {limit_s:g} s") from error
        except AzureError as error:
            raise _trouble(operation, error) from error
        finally:
            _operation.reset(token)

    async def _write(
        self, operation: str, container: str, send: Callable[[ContainerProxy], Awaitable[tuple[str, ...]]]
    ) -> Written:
        async with self._call(operation):
            try:
                return Written(WriteStatus.OK, await send(self._container(container)))
            except AzureError as error:
                codes = status, _ = _codes(error)
                if codes == _OWNER_MISSING or status not in _VERDICTS:
                    raise
                return Written(_VERDICTS[status])

    async def _commit(self, guarded: Sequence[Guarded]) -> Written:
        first = guarded[0]
        if len(guarded) == 1:
            if isinstance(first.expected, Absent):
                return await self.create(first.container, first.doc)
            return await self.update(first.container, first.doc, first.expected)

        async def send(target: ContainerProxy) -> tuple[str, ...]:
            results = await target.execute_item_batch([_batched(write) for write in guarded], first.address.partition)
            return tuple(result["eTag"] for result in results)

        return await self._write("commit", first.container, send)

    async def _project(self, write: Derived) -> None:
        if write.rev is None:
            await self.create(write.container, write.doc)
            return
        for _ in range(PROJECT_TRIES_MAX):  # without a pause: each conflict means that another got on
            stored = await self.read(write.address)
            if stored is not None and stored.doc["rev"] >= write.rev:
                return
            expected = ABSENT if stored is None else stored.etag
            if (await self._commit([Guarded(write.container, write.doc, expected)])).ok:
                return
        raise Indefinite(f"{write.address} changed under each of {PROJECT_TRIES_MAX} projections")


async def _prepare(client: CosmosClient, database: str) -> dict[str, ContainerProxy]:
    """The containers, made where missing. Another coordinator may be making them at the same time."""
    with suppress(CosmosResourceExistsError):
        await client.create_database_if_not_exists(database)
    made = client.get_database_client(database)
    return {name: await _prepare_container(made, name) for name in PARTITION_KEYS}


async def _prepare_container(database: DatabaseProxy, name: str) -> ContainerProxy:
    container = database.get_container_client(name)
    key, policy = PartitionKey(f"/{PARTITION_KEYS[name]}"), _index_policy(name)
    try:
        found = await container.read()
    except CosmosResourceNotFoundError:
        with suppress(CosmosResourceExistsError):
            await database.create_container(name, key, indexing_policy=policy)
        found = await container.read()
    included = found["indexingPolicy"].get("includedPaths", [])
    known = {one["path"] for one in included}
    missing = [one for one in policy["includedPaths"] if one["path"] not in known]
    if missing:
        more = {**found["indexingPolicy"], "includedPaths": [*included, *missing]}
        await database.replace_container(container, key, indexing_policy=more, default_ttl=found.get("defaultTtl"))
    return container


def _index_policy(container: str) -> dict[str, Any]:
    """Just what queries filter and order by: with bodies and outboxes in the index a write costs far more."""
    paths = ("id", PARTITION_KEYS[container], *INDEXED.get(container, ()))
    return {
        "indexingMode": "consistent",
        "automatic": True,
        "includedPaths": [{"path": f"/{path.replace('.', '/')}/?"} for path in paths],
        "excludedPaths": [{"path": "/*"}],
    }


def _batched(write: Guarded) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    if isinstance(write.expected, Absent):
        return ("create", (write.doc,), {})
    return ("replace", (write.doc["id"], write.doc), {"if_match_etag": write.expected})


def _stored(row: dict[str, Any]) -> Stored:
    return Stored({name: value for name, value in row.items() if name not in _SYSTEM_FIELDS}, row["_etag"])


def _etag(answer: Any) -> tuple[str]:
    """From the headers: writes are asked to answer without the document."""
    return (str(answer.get_response_headers()["etag"]),)


def _sql(query: Query) -> tuple[str, list[dict[str, Any]]]:
    values: list[Any] = []

    def parameter(value: Any) -> str:
        values.append(value)
        return f"@p{len(values) - 1}"

    order = _path(query.order)
    conditions = [_condition(where, parameter) for where in query.where]
    if query.after is not None:
        conditions.append(f"{order} {'<' if query.descending else '>'} {parameter(query.after)}")
    elif query.order != "id":
        # Azure returns documents without the key, too, first of all, where its path is indexed by name.
        conditions.append(f"IS_DEFINED({order}) AND NOT IS_NULL({order})")
    direction = "DESC" if query.descending else "ASC"
    matched = " AND ".join(conditions or ["true"])
    sql = f"SELECT * FROM c WHERE {matched} ORDER BY {order} {direction}"  # noqa: S608
    return sql, [{"name": f"@p{number}", "value": value} for number, value in enumerate(values)]


def _condition(where: Where, parameter: Callable[[Any], str]) -> str:
    path = _path(where.path)
    if where.compare == "in":
        return f"{path} IN ({', '.join(map(parameter, where.value))})" if where.value else "false"
    if where.value is None:
        assert where.compare == "="
        return f"(NOT IS_DEFINED({path}) OR IS_NULL({path}))"
    return f"{path} {where.compare} {parameter(where.value)}"


def _path(dotted: str) -> str:
    """In brackets, so that no name is taken for a keyword. Lets nothing but names into a query's text."""
    names = dotted.split(".")
    assert all(name.isidentifier() for name in names), dotted
    return "c" + "".join(f'["{name}"]' for name in names)


def _codes(error: AzureError) -> tuple[int, int]:
    """Status and sub-status, 0 without. A refused batch is no CosmosHttpResponseError, but has both as well."""
    return int(getattr(error, "status_code", None) or 0), int(getattr(error, "sub_status", None) or 0)


def _trouble(operation: str, error: AzureError) -> StoreError:
    codes = status, _ = _codes(error)
    said = f"{operation}: {status or 'no answer'}: {' '.join(str(error).split())[:300]}"
    if status == 429:
        wait_ms = getattr(error, "headers", {}).get("x-ms-retry-after-ms")
        return Throttled(said, float(wait_ms) / 1000 if wait_ms else RETRY_AFTER_DEFAULT_S)
    if codes == _PARTITION_FULL:
        return StoreFull(f"{operation}: a partition of Cosmos DB is full (20 GB): shorten its retention; {said}")
    if codes == _OWNER_MISSING:
        return StoreError(f"the database or container is gone while in use; {said}")
    if status in _REFUSED:
        return StoreError(f"{_REFUSED[status]}; {said}")
    return Indefinite(said)
