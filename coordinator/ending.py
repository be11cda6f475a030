"""Every end of a term that a coordinator makes: first the lease is closed, then the job is asked to move."""

from __future__ import annotations

from datetime import datetime, timedelta

from coordinator import leases
from coordinator.context import Context
from coordinator.domain.ops import Cause, Reap, Rejected
from coordinator.transact import Applied
from schemas.job import Job


async def end_term(ctx: Context, job: Job, cause: Cause, now: datetime) -> Applied | Rejected | None:
    """Ends the term that `job`, as just read, is in. None: a renewal came first and the holder lives.

    `now` is from before `job` was read. Once the lease is closed the end is certain, and any coordinator
    that finds it so finishes what this one began.
    """
    assert job.held
    overdue = now - timedelta(seconds=ctx.timers.skew_s)
    if not await leases.close(ctx.store, ctx.clock, job, ctx.timers.lease_ttl_s, cause, overdue):
        return None
    return await ctx.transactor.transact(job.key, Reap.of(job.key, job.lease_epoch, cause))
