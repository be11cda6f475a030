"""Refusals that any transition may give."""

from __future__ import annotations

from coordinator.domain.ops import HolderOp, Op, Rejected
from coordinator.domain.table import TABLE, Action
from schemas.job import Job


def fenced(job: Job, op: HolderOp) -> Rejected:
    """Of a holder whose term is not the running one."""
    held_by = f"held by {job.holder.factory_id}" if job.holder else "held by nobody"
    return Rejected(
        "fenced",
        f"term {op.lease_epoch} of {job.id} is not yours: the job is {held_by}, its epoch is {job.lease_epoch}",
        {"leaseEpoch": job.lease_epoch, "stage": str(job.stage)},
    )


def illegal(job: Job, action: Action, actor_kind: str, why: str = "") -> Rejected:
    """Of an action that the job's stage does not know, or `why` it does not take it now."""
    legal = sorted(action for stage, action in TABLE if stage is job.stage)
    return Rejected(
        "illegal_transition",
        why or f"a job that is {job.stage} has no {action} by {actor_kind}; legal are: {', '.join(legal) or 'none'}",
        {"stage": str(job.stage), "action": str(action)},
    )


def illegal_op(job: Job, op: Op, why: str = "") -> Rejected:
    return illegal(job, op.action, op.actor_kind, why)
