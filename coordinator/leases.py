"""The lease documents: renewal, and the end of a term by a coordinator, which closes the lease before anything else.

A lease never decides who holds a job. Closed is final: the renewal of a closed lease is refused.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from coordinator.context import Context
from coordinator.domain import lease as rules
from coordinator.domain.ops import Cause, Reap, Rejected
from coordinator.store.change import Keep, change, unknown
from coordinator.store.port import LEASES
from coordinator.store.queries import read_job, read_lease
from coordinator.transact import Applied
from schemas.errors import FleetError
from schemas.job import Job
from schemas.projections import LeaseDoc, LeaseStatus

JUDGED_BY_THE_JOB = (Cause.NOT_STARTED, Cause.STOP_DEADLINE)


async def end_term(ctx: Context, job: Job, cause: Cause, now: datetime) -> Applied | Rejected | None:
    """Ends the term that `job`, as just read, is in. None: a renewal came first and the holder lives.

    `now` is from before `job` was read. Once the lease is closed the end is certain, and any coordinator
    that finds it so finishes what this one began.
    """
    assert job.held
    if not await close(ctx, job, cause, now - timedelta(seconds=ctx.timers.skew_s)):
        return None
    return await ctx.transactor.transact(job.key, Reap.of(job.key, job.lease_epoch, cause))


async def renew(ctx: Context, job: Job, *, rewrite_after_s: float | None = None) -> datetime | None:
    """Until when the term of `job`, as just read, lives. None: its lease is closed. Creates a missing one.

    Writes only when less than two thirds of the TTL is left, and answers what the store holds, never more. A lease
    older than `rewrite_after_s` is written in any case: a closer who read the job before, and is about to end the term
    for want of a start, then finds its lease changed.
    """
    ttl_s = ctx.timers.lease_ttl_s

    async def decide(known: LeaseDoc | None) -> LeaseDoc | Keep[LeaseDoc | None]:
        now = ctx.clock.now()
        wanted = rules.renewed(job, known, now, ttl_s)
        if wanted is None or wanted != known:
            return wanted if wanted is not None else Keep(None)
        age_s = (now - wanted.acquired_at).total_seconds()
        full = now + timedelta(seconds=ttl_s)
        if rewrite_after_s is None or age_s < rewrite_after_s or wanted.expires_at >= full:
            return Keep(wanted)
        return wanted.model_copy(update={"expires_at": full})

    lease = await change(ctx.store, LEASES, lambda: _read(ctx, job), decide, ctx.entropy, _in_doubt(job))
    return lease.expires_at if lease is not None else None


async def close(ctx: Context, job: Job, cause: Cause, overdue: datetime) -> bool:
    """Closes the term's lease, or creates it closed. False: there is no reason to end the term any more.

    For `Cause.EXPIRED` the lease must still have expired at or before `overdue` when it is closed. What is judged by
    the job is judged by one read after the lease: a start or a new stop in between rewrites that lease or is seen.
    Our own success may come back as a conflict: then the next read, or the next run, finds it closed.
    """

    async def decide(known: LeaseDoc | None) -> LeaseDoc | Keep[LeaseDoc | None]:
        if known is not None and known.status is LeaseStatus.CLOSED:
            return Keep(known)
        if cause is Cause.EXPIRED and rules.expires_at(job, known, ctx.timers.lease_ttl_s) > overdue:
            return Keep(None)
        if cause in JUDGED_BY_THE_JOB and not await _stands(ctx, job):
            return Keep(None)
        return rules.closed(job, known, ctx.clock.now())

    closed = await change(ctx.store, LEASES, lambda: _read(ctx, job), decide, ctx.entropy, _in_doubt(job))
    return closed is not None


async def _stands(ctx: Context, judged: Job) -> bool:
    """Whether the job still gives the reason for which its term is to end."""
    stored = await read_job(ctx.store, judged.key)
    return stored is not None and (stored.job.lease_epoch, stored.job.stage, stored.job.stop) == (
        judged.lease_epoch,
        judged.stage,
        judged.stop,
    )


async def _read(ctx: Context, job: Job) -> tuple[LeaseDoc, str] | None:
    return await read_lease(ctx.store, job.id, job.lease_epoch)


def _in_doubt(job: Job) -> FleetError:
    return unknown(f"the lease of {job.id} could not be settled: ask again")
