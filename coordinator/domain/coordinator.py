"""Transitions that the coordinator makes by itself, each pure: job, operation, moment -> next job, or a refusal."""

from __future__ import annotations

from datetime import datetime

from coordinator.domain import ops
from coordinator.domain.patches import after_outcome, queued, without_holder
from coordinator.domain.refusals import illegal_op
from coordinator.domain.retry import LOST_IN_A_ROW_MAX, exhausted
from coordinator.domain.table import Action
from schemas import events
from schemas.job import Job, JobChanges, Stage
from schemas.outcome import Outcome, Result

NO_ENGINE_RAN = (ops.Cause.MISSING, ops.Cause.NOT_STARTED, ops.Cause.VANISHED)  # of a term that had not started


def reap(job: Job, op: ops.Reap, now: datetime) -> Job | ops.Rejected:
    """assigned | building -> queued | failed (cancelled) | dead_letter (crash loop). The lease is closed before."""
    if job.lease_epoch != op.lease_epoch:
        return ops.Rejected("fenced", f"term {op.lease_epoch} has ended already", {"leaseEpoch": job.lease_epoch})
    if op.cause is ops.Cause.STOP_DEADLINE and job.stop is None:
        return illegal_op(job, op, "no stop was asked for")
    outcome = outcome_of(job, op.cause)
    lost_in_a_row = job.lost_in_a_row + 1 if outcome is Outcome.LOST else job.lost_in_a_row
    changes: JobChanges = {**after_outcome(job, outcome, now, 0.0), **without_holder(job)}
    text = f"ended by the coordinator: {op.cause}"
    if outcome is Outcome.LOST and lost_in_a_row >= LOST_IN_A_ROW_MAX:
        changes |= {"stage": Stage.DEAD_LETTER, "lease_epoch": job.lease_epoch}
        text = f"crash_loop: {lost_in_a_row} terms in a row were lost without a new checkpoint"
    result = Result(outcome=outcome, summary=text)
    told = events.Reaped(outcome=str(outcome), cause=str(op.cause), result=result)
    changes |= {"lost_in_a_row": lost_in_a_row, "result": result}
    return job.advance(told, op.id, op.actor, now, **changes)


def outcome_of(job: Job, cause: ops.Cause) -> Outcome:
    """What the end of a term counts as. Where no engine ran, as far as anybody knows, nothing was lost."""
    if job.stop is not None and job.stop.kind == "cancel":
        return Outcome.CANCELLED
    if cause is ops.Cause.STOP_DEADLINE:
        return Outcome.PREEMPTED
    return Outcome.RELEASED if job.stage is Stage.ASSIGNED and cause in NO_ENGINE_RAN else Outcome.LOST


def follow_up(job: Job, op: ops.FollowUp, now: datetime) -> Job | ops.Rejected:
    """blocked -> queued, blocked with another reason, failed -> queued | dead_letter; only as seen at `seq`."""
    if job.seq != op.seq:
        return ops.Rejected("conflict", f"the job moved on to {job.seq}", {"seq": job.seq})
    match op.action:
        case Action.UNBLOCK:
            changes: JobChanges = {**queued(job), "waiting_since": now}
            return job.advance(events.Unblocked(), op.id, op.actor, now, **changes)
        case Action.EXPLAIN_BLOCK:
            reason = op.blocked_reason
            assert reason is not None
            told = events.BlockExplained(kind=reason.kind, text=reason.text)
            return job.advance(told, op.id, op.actor, now, blocked_reason=reason)
        case Action.RETRY:
            if job.not_before is None or job.not_before > now:
                return illegal_op(job, op, "no retry is due")
            return job.advance(events.Retried(), op.id, op.actor, now, **queued(job))
        case _:
            assert op.action is Action.BURY
            if not exhausted(job):
                return illegal_op(job, op, "its retries are not used up")
            return job.advance(events.Buried(), op.id, op.actor, now, stage=Stage.DEAD_LETTER)
