"""The lease documents: renewal, and the end of a term by a coordinator, which closes the lease before anything else.

A lease never decides who holds a job. Closed is final: the renewal of a closed lease is refused.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from coordinator.context import Context
from coordinator.domain import lease as rules
from coordinator.domain.ops import Cause, Reap, Rejected
from coordinator.store.port import LEASES, Indefinite, Store
from coordinator.store.queries import StoredLease, read_job, read_lease
from coordinator.transact import Applied
from runtime.clock import Clock
from schemas.errors import ErrorCode, FleetError
from schemas.job import Job
from schemas.projections import LeaseDoc, LeaseStatus

TRIES_MAX = 10
JUDGED_BY_THE_JOB = (Cause.NOT_STARTED, Cause.STOP_DEADLINE)


async def end_term(ctx: Context, job: Job, cause: Cause, now: datetime) -> Applied | Rejected | None:
    """Ends the term that `job`, as just read, is in. None: a renewal came first and the holder lives.

    `now` is from before `job` was read. Once the lease is closed the end is certain, and any coordinator
    that finds it so finishes what this one began.
    """
    assert job.held
    overdue = now - timedelta(seconds=ctx.timers.skew_s)
    if not await close(ctx.store, ctx.clock, job, ctx.timers.lease_ttl_s, cause, overdue):
        return None
    return await ctx.transactor.transact(job.key, Reap.of(job.key, job.lease_epoch, cause))


async def renew(
    store: Store, clock: Clock, job: Job, ttl_s: float, *, rewrite_after_s: float | None = None
) -> datetime | None:
    """Until when the term of `job`, as just read, lives. None: its lease is closed. Creates a missing one.

    Writes only when less than two thirds of the TTL is left, and answers what the store holds, never more. A lease
    older than `rewrite_after_s` is written in any case: whoever is about to close it for want of a start, having read
    the job before, then finds it changed.
    """
    for _ in range(TRIES_MAX):
        try:
            stored = await read_lease(store, job.id, job.lease_epoch)
            now = clock.now()
            wanted = rules.renewed(job, stored.lease if stored else None, now, ttl_s)
            if wanted is None:
                return None
            if stored is not None and wanted == stored.lease:
                age_s = (now - wanted.acquired_at).total_seconds()
                if rewrite_after_s is None or age_s < rewrite_after_s:
                    return wanted.expires_at
                wanted = wanted.model_copy(update={"expires_at": now + timedelta(seconds=ttl_s)})
                rewrite_after_s = None
            if await _replaced(store, stored, wanted):
                return wanted.expires_at
        except Indefinite:
            continue  # the next read tells whether it was written
    raise _unknown(job)


async def close(store: Store, clock: Clock, job: Job, ttl_s: float, cause: Cause, overdue: datetime) -> bool:
    """Closes the term's lease, or creates it closed. False: a renewal came first, so there is no reason to end it.

    For `Cause.EXPIRED` the lease must still have expired at or before `overdue` when it is closed. What is judged by
    the job is judged by one read after the lease: a start or a new stop in between rewrites that lease or is seen.
    Our own success may come back as a conflict: then the next read, or the next run, finds it closed.
    """
    for _ in range(TRIES_MAX):
        try:
            stored = await read_lease(store, job.id, job.lease_epoch)
            lease = stored.lease if stored else None
            if lease is not None and lease.status is LeaseStatus.CLOSED:
                return True
            if cause is Cause.EXPIRED and rules.expires_at(job, lease, ttl_s) > overdue:
                return False
            if cause in JUDGED_BY_THE_JOB and not await _stands(store, job):
                return False
            if await _replaced(store, stored, rules.closed(job, lease, clock.now())):
                return True
            if cause in JUDGED_BY_THE_JOB:
                return False  # somebody renewed it since the job was read: judge it anew next time
        except Indefinite:
            continue
    raise _unknown(job)


async def _stands(store: Store, judged: Job) -> bool:
    """Whether the job still gives the reason for which its term is to end."""
    stored = await read_job(store, judged.key)
    return stored is not None and (stored.job.lease_epoch, stored.job.stage, stored.job.stop) == (
        judged.lease_epoch,
        judged.stage,
        judged.stop,
    )


async def _replaced(store: Store, stored: StoredLease | None, wanted: LeaseDoc) -> bool:
    if stored is None:
        return (await store.create(LEASES, wanted.to_doc())).ok
    return (await store.update(LEASES, wanted.to_doc(), stored.etag)).ok


def _unknown(job: Job) -> FleetError:
    return FleetError(ErrorCode.UNAVAILABLE, f"the lease of {job.id} could not be settled: ask again")
