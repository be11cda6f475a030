"""The whole of deciding: a job, an operation and a moment give the next job, or a refusal. Pure.

What a rule over several jobs needs besides is in `guards`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from coordinator.domain import coordinator, holder, operator, ops
from coordinator.domain.refusals import fenced, illegal_op
from coordinator.domain.table import TABLE
from schemas.job import Job

Decided = Job | ops.Rejected

TRANSITIONS: dict[type[ops.Op], Callable[[Job, Any, datetime], Decided]] = {
    ops.Claim: holder.claim,
    ops.Start: holder.start,
    ops.SaveCheckpoint: holder.save_checkpoint,
    ops.End: holder.end,
    ops.Reap: coordinator.reap,
    ops.FollowUp: coordinator.follow_up,
    ops.RequestStop: operator.request_stop,
    ops.Operate: operator.operate,
    ops.Review: operator.review,
}


def decide(job: Job | None, op: ops.Op, now: datetime) -> Decided:
    """Only a submit makes a job from nothing."""
    if isinstance(op, ops.Submit):
        return operator.submit(op, now) if job is None else taken(job)
    assert job is not None, op
    if isinstance(op, ops.HolderOp) and not holds(job, op):
        return fenced(job, op)
    rule = TABLE.get((job.stage, op.action))
    if rule is None or op.actor_kind not in rule.actors:
        return illegal_op(job, op)
    decided = TRANSITIONS[type(op)](job, op, now)
    if isinstance(decided, Job):
        assert decided.stage in rule.targets, (job.stage, op.action, decided.stage)
        assert (not decided.held) if rule.ends_term else True
    return decided


def holds(job: Job, op: ops.HolderOp) -> bool:
    """Whether the operation is of exactly the term that runs."""
    return job.is_held_by(op.factory_id, op.session_id, op.lease_epoch)


def taken(job: Job) -> ops.Rejected:
    return ops.Rejected("conflict", f"the key names job {job.id}, submitted with another manifest", {"jobId": job.id})
