"""Documents as models, and the questions that the coordinator asks of the store."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from pydantic import ValidationError

from coordinator.store.port import (
    EVENTS,
    FACTORIES,
    JOBS,
    LEASES,
    RUNS,
    Address,
    Query,
    Store,
    Stored,
    Where,
)
from schemas.factory import FactoryDoc
from schemas.guards import LedgerGuard
from schemas.ids import LEDGER_ID, JobKey, lease_id
from schemas.job import HELD, Job, Stage
from schemas.projections import EventDoc, LeaseDoc, RunDoc

log = logging.getLogger(__name__)

PAGE = 200


class StoredJob(NamedTuple):
    job: Job
    etag: str


class StoredLease(NamedTuple):
    lease: LeaseDoc
    etag: str


class StoredFactory(NamedTuple):
    factory: FactoryDoc
    etag: str


def job_address(key: JobKey) -> Address:
    return Address(JOBS, key.product_id, key.job_id)


async def read_job(store: Store, key: JobKey) -> StoredJob | None:
    """None where there is none; a guard or a body, which lie in the same partition, is no job."""
    stored = await store.read(job_address(key))
    if stored is None or "stage" not in stored.doc:
        return None
    return StoredJob(Job.model_validate(stored.doc), stored.etag)


async def read_guard(store: Store, product_id: str, guard_id: str) -> Stored | None:
    return await store.read(Address(JOBS, product_id, guard_id))


async def read_ledger(store: Store, product_id: str) -> tuple[LedgerGuard, str] | None:
    stored = await read_guard(store, product_id, LEDGER_ID)
    return None if stored is None else (LedgerGuard.model_validate(stored.doc), stored.etag)


async def read_lease(store: Store, job_id: str, lease_epoch: int) -> StoredLease | None:
    stored = await store.read(Address(LEASES, job_id, lease_id(job_id, lease_epoch)))
    return None if stored is None else StoredLease(LeaseDoc.model_validate(stored.doc), stored.etag)


async def read_run(store: Store, job_id: str, run: str) -> RunDoc | None:
    stored = await store.read(Address(RUNS, job_id, run))
    return None if stored is None else RunDoc.model_validate(stored.doc)


async def read_factory(store: Store, product_id: str, factory_id: str) -> StoredFactory | None:
    stored = await store.read(Address(FACTORIES, product_id, factory_id))
    return None if stored is None else StoredFactory(FactoryDoc.model_validate(stored.doc), stored.etag)


async def event_with_op(store: Store, job_id: str, op_id: str, above: int = 0) -> EventDoc | None:
    """The newest: a claim's op id may recur, in a late duplicate that won the same job again."""
    query = Query(EVENTS, job_id, (Where("opId", "=", op_id),), order="seq", descending=True, limit=1)
    page = await store.query(query)
    event = EventDoc.model_validate(page[0].doc) if page else None
    return event if event is not None and event.seq > above else None


async def events_after(store: Store, job_id: str, seq: int, limit: int = PAGE) -> list[EventDoc]:
    page = await store.query(Query(EVENTS, job_id, order="seq", after=seq, limit=limit))
    return [EventDoc.model_validate(stored.doc) for stored in page]


async def runs_of(store: Store, job_id: str, after_epoch: int = 0, limit: int = PAGE) -> list[RunDoc]:
    page = await store.query(Query(RUNS, job_id, order="leaseEpoch", after=after_epoch, limit=limit))
    return [RunDoc.model_validate(stored.doc) for stored in page]


async def jobs_where(store: Store, product_id: str, *where: Where) -> AsyncIterator[Job]:
    """Every match in a product, page by page, by id."""
    after: str | None = None
    while True:
        page = await store.query(Query(JOBS, product_id, where, after=after, limit=PAGE))
        for stored in page:
            try:
                yield Job.model_validate(stored.doc)
            except ValidationError:
                log.exception("%s in %s is no valid job: it is passed over", stored.doc["id"], product_id)
        if len(page) < PAGE:
            return
        after = page[-1].doc["id"]


async def jobs_in(store: Store, product_id: str, *stages: Stage) -> AsyncIterator[Job]:
    async for job in jobs_where(store, product_id, Where("stage", "in", tuple(str(stage) for stage in stages))):
        yield job


async def jobs_held_by(store: Store, products: Sequence[str], factory_id: str) -> list[Job]:
    held = []
    for product_id in products:
        async for job in jobs_where(store, product_id, Where("holder.factoryId", "=", factory_id)):
            assert job.stage in HELD
            held.append(job)
    return held


async def all_partitions(store: Store, container: str) -> AsyncIterator[str]:
    after: str | None = None
    while page := await store.partitions(container, after, PAGE):
        for name in page:
            yield name
        after = page[-1]


async def all_factories(store: Store) -> AsyncIterator[FactoryDoc]:
    async for product_id in all_partitions(store, FACTORIES):
        after: str | None = None
        while page := await store.query(Query(FACTORIES, product_id, after=after, limit=PAGE)):
            for stored in page:
                yield FactoryDoc.model_validate(stored.doc)
            after = page[-1].doc["id"]
