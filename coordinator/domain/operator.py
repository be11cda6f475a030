"""Transitions that operators make, each pure: job, operation, moment -> next job, or a refusal."""

from __future__ import annotations

from datetime import datetime

from coordinator.domain import ops
from coordinator.domain.dag import waits_for
from coordinator.domain.patches import cancelled, requeued, shipped_at_once
from coordinator.domain.refusals import illegal_op
from coordinator.domain.table import Action
from schemas import events
from schemas.base import timestamp_text
from schemas.job import Job, JobChanges, Stage, Stop
from schemas.manifest import BODY_INLINE_MAX
from schemas.outcome import Outcome, Result

WAITS_FOR_DEPS = ("deps", "dep_failed")


def submit(op: ops.Submit, now: datetime) -> Job:
    """nothing -> queued | blocked, with the reason."""
    manifest, key = op.manifest, op.key
    waits = waits_for(manifest.deps_mode, op.deps)
    inline = len(manifest.body.encode()) <= BODY_INLINE_MAX
    asked = {
        **manifest.request(),
        "capabilities": tuple(sorted(set(manifest.capabilities))),
        "deps": tuple(dep.id for dep in op.deps),
    }
    job = Job(
        **asked,
        id=key.job_id,
        product_id=key.product_id,
        manifest_snapshot=manifest.snapshot,
        body_md=manifest.body if inline else None,
        stage=Stage.BLOCKED if waits else Stage.QUEUED,
        stage_since=now,
        blocked_reason=waits,
        waiting_since=now,
        idempotency_key=op.idempotency_key,
        manifest_sha256=manifest.sha256,
        sort_key=f"{timestamp_text(now)}:{key.job_id}",
        created_at=now,
        updated_at=now,
    )
    return job.advance(events.Submitted(title=job.title), op.id, op.actor, now)


def request_stop(job: Job, op: ops.RequestStop, now: datetime) -> Job | ops.Rejected:
    """Held: the holder is told, cancel over preempt. Not held: a cancel is final at once."""
    if job.held:
        if op.kind == "preempt" and op.lease_epoch != job.lease_epoch:
            return ops.Rejected(
                "fenced",
                f"the running term is {job.lease_epoch}, not {op.lease_epoch}",
                {"leaseEpoch": job.lease_epoch},
            )
        if job.stop is not None and (job.stop.kind == op.kind or job.stop.kind == "cancel"):
            return ops.Rejected("conflict", f"a {job.stop.kind} is under way", {"stop": job.stop.to_doc()})
        stop = Stop(kind=op.kind, by=op.actor, deadline=op.deadline, reason=op.reason)
        return job.advance(events.StopRequested(kind=op.kind, reason=op.reason), op.id, op.actor, now, stop=stop)
    if job.stage is Stage.FAILED and job.not_before is None:
        return illegal_op(job, op, "the job has failed for good: there is nothing to cancel")
    told = events.Cancelled(kind=op.kind, reason=op.reason)
    result = Result(outcome=Outcome.CANCELLED, summary=op.reason)
    changes: JobChanges = {**cancelled(job), "result": result}
    return job.advance(told, op.id, op.actor, now, **changes)


def operate(job: Job, op: ops.Operate, now: datetime) -> Job | ops.Rejected:
    """testing -> shipped; review | testing -> failed; testing | failed | dead_letter | blocked -> queued."""
    if op.action is Action.SHIP:
        return job.advance(events.Shipped(reason=op.reason), op.id, op.actor, now, stage=Stage.SHIPPED)
    if op.action is Action.REJECT:
        told = events.Rejected(reason=op.reason)
        return job.advance(told, op.id, op.actor, now, stage=Stage.FAILED, result=rejected(op.reason))
    assert op.action is Action.REQUEUE
    if job.stage is Stage.BLOCKED and (job.blocked_reason is None or job.blocked_reason.kind in WAITS_FOR_DEPS):
        return illegal_op(job, op, "a job that waits for its deps is queued when they are shipped")
    return job.advance(events.Requeued(reason=op.reason), op.id, op.actor, now, **requeued(job, op.checkpoint))


def review(job: Job, op: ops.Review, now: datetime) -> Job | ops.Rejected:
    """review -> testing (-> shipped) at the quorum, -> queued with changes requested, -> failed rejected."""
    if op.verdict == "request_changes":
        asks = events.ChangesRequested(verdict=op.verdict, reason=op.reason)
        return job.advance(asks, op.id, op.actor, now, **requeued(job))
    if op.verdict == "reject":
        told = events.Rejected(verdict=op.verdict, reason=op.reason)
        return job.advance(told, op.id, op.actor, now, stage=Stage.FAILED, result=rejected(op.reason))
    if op.actor in job.approvals:
        return ops.Rejected("conflict", f"{op.actor} has approved this already", {"approvals": list(job.approvals)})
    approvals = (*job.approvals, op.actor)
    stage = Stage.TESTING if len(approvals) >= job.review else Stage.REVIEW
    agrees = events.Approved(verdict=op.verdict, reason=op.reason)
    approved = job.advance(agrees, op.id, op.actor, now, stage=stage, approvals=approvals)
    return shipped_at_once(approved, job.lease_epoch, now)


def rejected(reason: str | None) -> Result:
    return Result(outcome=Outcome.CANCELLED, summary=f"rejected: {reason}" if reason else "rejected")
