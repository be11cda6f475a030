"""How long a term lives. A lease is liveness only: its expiry asks for a transition and makes none."""

from __future__ import annotations

from datetime import datetime, timedelta

from schemas.ids import lease_id
from schemas.job import Job
from schemas.projections import LeaseDoc, LeaseStatus

REWRITE_BELOW = 2 / 3  # a renewal writes only when less than this share of the TTL is left


def _of_term(job: Job, expires_at: datetime, status: LeaseStatus) -> LeaseDoc:
    assert job.holder is not None
    return LeaseDoc(
        id=lease_id(job.id, job.lease_epoch),
        job_id=job.id,
        product_id=job.product_id,
        holder_factory_id=job.holder.factory_id,
        session_id=job.holder.session_id,
        lease_epoch=job.lease_epoch,
        acquired_at=job.stage_since,
        expires_at=expires_at,
        status=status,
    )


def granted(job: Job, ttl_s: float) -> LeaseDoc:
    """The lease as a grant creates it, if it is not there yet."""
    return _of_term(job, job.stage_since + timedelta(seconds=ttl_s), LeaseStatus.ACTIVE)


def expires_at(job: Job, lease: LeaseDoc | None, ttl_s: float) -> datetime:
    """A held job without a lease document lives from its stage's beginning."""
    return lease.expires_at if lease is not None else job.stage_since + timedelta(seconds=ttl_s)


def renewed(job: Job, lease: LeaseDoc | None, now: datetime, ttl_s: float) -> LeaseDoc | None:
    """The lease to write: `lease` itself when enough is left of it, None when it is closed, which is final."""
    until = now + timedelta(seconds=ttl_s)
    if lease is None:
        return _of_term(job, until, LeaseStatus.ACTIVE)
    if lease.status is LeaseStatus.CLOSED:
        return None
    if (lease.expires_at - now).total_seconds() >= REWRITE_BELOW * ttl_s:
        return lease
    return lease.model_copy(update={"expires_at": until})


def closed(job: Job, lease: LeaseDoc | None, now: datetime) -> LeaseDoc:
    if lease is None:
        return _of_term(job, now, LeaseStatus.CLOSED)
    return lease.model_copy(update={"status": LeaseStatus.CLOSED})
