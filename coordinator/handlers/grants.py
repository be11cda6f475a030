"""Grants: what a factory is given with a job, made from the job and the lease of its term."""

from __future__ import annotations

from datetime import datetime

from coordinator.context import Context
from coordinator.domain import lease as lease_rules
from coordinator.handlers.answers import stop_order, term_times
from coordinator.store.port import JOBS, Address
from coordinator.store.queries import read_lease
from schemas.errors import ErrorCode, FleetError
from schemas.ids import body_id
from schemas.job import Job, Stage
from schemas.messages import Grant
from schemas.projections import LeaseStatus


async def grant_of(ctx: Context, job: Job, expires_at: datetime) -> Grant:
    """The grant of the term that `job` is in, whose lease lives until `expires_at`."""
    assert job.holder is not None
    return Grant(
        **job.order(),
        product_id=job.product_id,
        job_id=job.id,
        lease_epoch=job.lease_epoch,
        request_id=job.holder.request_id,
        run_id=job.holder.run_id,
        attempt=job.attempt,
        retries_used=job.retries.failed,
        manifest_snapshot=job.manifest_snapshot,
        body_md=await read_body(ctx, job),
        checkpoint=job.checkpoint,
        publish_only=job.is_to_be_published,
        started=job.stage is Stage.BUILDING,
        stop=stop_order(ctx, job),
        term=term_times(ctx, job, expires_at),
    )


async def grant_again(ctx: Context, job: Job) -> Grant:
    """The grant that a repeated claim was given before, with no more time than its lease has left."""
    stored = await read_lease(ctx.store, job.id, job.lease_epoch)
    lease = stored.lease if stored else None
    ending = lease is not None and lease.status is LeaseStatus.CLOSED
    expires_at = ctx.clock.now() if ending else lease_rules.expires_at(job, lease, ctx.timers.lease_ttl_s)
    return await grant_of(ctx, job, expires_at)


async def read_body(ctx: Context, job: Job) -> str:
    """The manifest's body, which has a document of its own where it is long."""
    if job.body_md is not None:
        return job.body_md
    stored = await ctx.store.read(Address(JOBS, job.product_id, body_id(job.id, job.manifest_sha256)))
    if stored is None:
        raise FleetError(ErrorCode.INTERNAL, f"the body of {job.id} is missing from the store")
    return str(stored.doc["bodyMd"])
