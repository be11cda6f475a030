"""The one port to a datastore. Documents are JSON objects with an `id`, in a container, in a partition.

An expected refusal is a value; trouble is an exception that says whether the write may have happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol

Doc = dict[str, Any]

JOBS = "fleet_jobs"
RUNS = "fleet_runs"
LEASES = "fleet_leases"
FACTORIES = "fleet_factories"
PROFILES = "fleet_profiles"
EVENTS = "fleet_events"
ARTIFACTS = "fleet_artifacts"
BUDGETS = "fleet_budgets"
PRODUCTS = "fleet_products"
OPERATORS = "fleet_operators"

PARTITION_KEYS: dict[str, str] = {
    JOBS: "productId",
    RUNS: "jobId",
    LEASES: "jobId",
    FACTORIES: "productId",
    PROFILES: "productId",
    EVENTS: "jobId",
    ARTIFACTS: "jobId",
    BUDGETS: "productId",
    PRODUCTS: "productId",
    OPERATORS: "productId",
}

# Scalars that queries may filter or order by, per container. Cosmos indexes just these.
INDEXED: dict[str, tuple[str, ...]] = {
    JOBS: (
        "stage", "priority", "notBefore", "pendingEvents", "holder.factoryId", "holder.requestId",
        "idempotencyKey", "parentId", "updatedAt", "sortKey",
    ),
    EVENTS: ("seq", "opId"),
    RUNS: ("leaseEpoch",),
}  # fmt: skip

# What a provider with composite indexes builds within each partition: the paths that a query fixes, then the one that
# it orders by or bounds. `Query` refuses what none of them serves, so that no query ever walks a product's history.
INDEXES: dict[str, tuple[tuple[str, ...], ...]] = {
    JOBS: (
        ("stage", "id"),
        ("stage", "sortKey"),
        ("stage", "notBefore", "id"),
        ("stage", "notBefore", "updatedAt"),
        ("holder.factoryId", "id"),
        ("pendingEvents",),
        ("sortKey",),
    ),
    EVENTS: (("seq",), ("opId", "seq")),
    RUNS: (("leaseEpoch",),),
}

QUERY_LIMIT_MAX = 1000
COMMIT_DOCS_MAX = 50


def partition_of(container: str, doc: Mapping[str, Any]) -> str:
    return str(doc[PARTITION_KEYS[container]])


class Address(NamedTuple):
    container: str
    partition: str
    id: str


class Stored(NamedTuple):
    """A document as read, with the etag that a conditional write of it must name."""

    doc: Doc
    etag: str


class WriteStatus(StrEnum):
    OK = "ok"
    CONFLICT = "conflict"
    NOT_FOUND = "not_found"


class Written(NamedTuple):
    """`etags`: those of the documents now in the store, in the order of the writes; empty unless ok."""

    status: WriteStatus
    etags: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.status is WriteStatus.OK


class Absent:
    """The expectation that there is no such document."""


ABSENT = Absent()


@dataclass(frozen=True)
class Guarded:
    """A write that happens only if the document is as expected."""

    container: str
    doc: Doc
    expected: str | Absent

    @property
    def address(self) -> Address:
        return Address(self.container, partition_of(self.container, self.doc), self.doc["id"])


@dataclass(frozen=True)
class Derived:
    """A projection: created if absent; with `rev` set, also replaces one whose `rev` is lower."""

    container: str
    doc: Doc
    rev: int | None = None

    @property
    def address(self) -> Address:
        return Address(self.container, partition_of(self.container, self.doc), self.doc["id"])


Comparison = Literal["=", "in", ">", "<", ">=", "<="]


class Where(NamedTuple):
    """One condition on an indexed scalar, named by its dotted path. `in` takes a tuple. None matches absent too."""

    path: str
    compare: Comparison
    value: Any


@dataclass(frozen=True)
class Query:
    """An ordered query of one partition, paged by key: `after` is the last value of `order` already seen.

    `order` must be unique within what the query matches, so that no row is skipped or seen twice. One of INDEXES must
    serve it; a walk of a whole partition by id needs none.
    """

    container: str
    partition: str
    where: tuple[Where, ...] = ()
    order: str = "id"
    descending: bool = False
    after: str | int | None = None
    limit: int = 100

    def __post_init__(self) -> None:
        assert 0 < self.limit <= QUERY_LIMIT_MAX, self.limit
        assert self.index is not None or (not self.where and self.order == "id"), f"no index serves {self}"

    @property
    def index(self) -> tuple[str, ...] | None:
        """The index of INDEXES that narrows it most; of equals, the one that gives its order."""
        return _best_index(self.container, tuple((where.path, where.compare) for where in self.where), self.order)


Conditions = tuple[tuple[str, Comparison], ...]


@lru_cache(maxsize=256)  # there are as many as the coordinator has kinds of queries
def _best_index(container: str, conditions: Conditions, order: str) -> tuple[str, ...] | None:
    served = [(_narrowed_by(paths, conditions, order), paths) for paths in INDEXES.get(container, ())]
    best = max(served, default=((0, False), ()))
    return best[1] if best[0] > (0, False) else None


def _narrowed_by(paths: tuple[str, ...], conditions: Conditions, order: str) -> tuple[int, bool]:
    """How many conditions the leading paths of an index answer, and whether it gives the order then."""
    fixed = {path for path, compare in conditions if compare in ("=", "in")}
    count = next((at for at, path in enumerate(paths) if path not in fixed), len(paths))
    following = paths[count] if count < len(paths) else None
    if any(path == following for path, _ in conditions):
        return count + 1, False
    return count, following == order


class StoreError(Exception):
    """Trouble with the store."""


class Indefinite(StoreError):
    """The write may have happened, may yet happen, or may never: only the document knows."""


class Throttled(Indefinite):
    """The provider asked to slow down. An earlier attempt of its client may have been applied all the same."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreUnreachable(StoreError):
    """The store does not answer at all, yet: worth another try at start."""


class StoreFull(StoreError):
    """Definite: there is no room, nothing was written."""


class Store(Protocol):
    """`atomic_then`: derived writes of a commit are part of its transaction."""

    @property
    def atomic_then(self) -> bool: ...

    async def open(self) -> None:
        """Makes containers as needed. Raises StoreError with a sentence for the operator."""

    async def close(self) -> None: ...

    async def read(self, at: Address) -> Stored | None: ...

    async def create(self, container: str, doc: Doc) -> Written:
        """ok, or conflict where the id is taken."""

    async def update(self, container: str, doc: Doc, etag: str) -> Written:
        """ok, conflict, or not_found."""

    async def delete(self, at: Address, etag: str) -> Written: ...

    async def query(self, query: Query) -> list[Stored]: ...

    async def commit(self, guarded: Sequence[Guarded], then: Sequence[Derived] = ()) -> Written:
        """All of `guarded`, which share one partition, or none; then the derived writes (see `atomic_then`).

        Where derived writes come after and fail, the commit is ok all the same: `project` makes up for them.
        """

    async def project(self, derived: Sequence[Derived]) -> None:
        """The derived writes alone. A no-op the second time."""

    async def partitions(self, container: str, after: str | None = None, limit: int = 100) -> list[str]:
        """Partition values in order. Only at start and in sweeps."""


def looked_up(doc: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, None where there is none."""
    value: Any = doc
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value
