"""The changes that several transitions have in common, each with all that its target brings along."""

from __future__ import annotations

from datetime import datetime

from coordinator.domain.retry import retry_at
from schemas.events import Shipped
from schemas.ids import ship_op
from schemas.job import BlockedReason, Job, JobChanges, Stage
from schemas.outcome import CHARGED, Outcome
from schemas.work import Checkpoint


def next_epoch(job: Job) -> JobChanges:
    """Past every epoch that was granted: every way back to `queued` or `blocked` takes it."""
    return {"lease_epoch": job.granted_epoch + 1}


def queued(job: Job) -> JobChanges:
    return {"stage": Stage.QUEUED, "not_before": None, "blocked_reason": None, **next_epoch(job)}


def blocked(job: Job, reason: BlockedReason) -> JobChanges:
    return {"stage": Stage.BLOCKED, "blocked_reason": reason, **next_epoch(job)}


def cancelled(job: Job) -> JobChanges:
    """Failed for good, and nothing is waited for any more."""
    return {"stage": Stage.FAILED, "not_before": None, "blocked_reason": None, **next_epoch(job)}


def requeued(job: Job, checkpoint: Checkpoint | None = None) -> JobChanges:
    """A person's decision to try again gives all tries back. `checkpoint`: where the next term goes on from."""
    fresh = job.retries.model_copy(update={"used": 0})
    changes: JobChanges = {**queued(job), "retries": fresh, "lost_in_a_row": 0, "avoid": (), "approvals": ()}
    if checkpoint is not None:
        changes["checkpoint"] = checkpoint.model_copy(update={"lease_epoch": job.granted_epoch})
    return changes


def without_holder(job: Job) -> JobChanges:
    assert job.holder is not None
    return {"holder": None, "stop": None, "last_factory_id": job.holder.factory_id}


def after_outcome(job: Job, outcome: Outcome, now: datetime, jitter: float) -> JobChanges:
    """Where the outcome of a term leads."""
    match outcome:
        case Outcome.OK:
            return {"stage": Stage.REVIEW if job.review else Stage.TESTING, "approvals": ()}
        case Outcome.DECOMPOSED:
            children = BlockedReason(kind="children", text="waits for the children it was decomposed into")
            return blocked(job, children)
        case Outcome.BUDGET:
            asks = BlockedReason(kind="budget", text="its own budget is used up: raise it and requeue, or cancel")
            return blocked(job, asks)
        case Outcome.UNPUBLISHED:
            text = "done and verified, and the server does not take its branch: requeue publishes it again, or cancel"
            return blocked(job, BlockedReason(kind="unpublished", text=text))
        case Outcome.CANCELLED:
            return cancelled(job)
        case Outcome.QUOTA_EXHAUSTED | Outcome.RELEASED | Outcome.PREEMPTED | Outcome.LOST | Outcome.MACHINE_FAILED:
            return queued(job)
        case Outcome.UNRUNNABLE:
            return {"stage": Stage.FAILED, "not_before": None}
        case _:
            assert outcome in CHARGED
            return {"stage": Stage.FAILED, "not_before": retry_at(job.retries, outcome, now, jitter)}


def ships_at_once(job: Job, stage: Stage) -> bool:
    """Whether a commit that brings the job to this stage ships it too."""
    return stage is Stage.TESTING and job.ship == "auto"


def shipped_at_once(job: Job, lease_epoch: int, now: datetime) -> Job:
    """testing -> shipped in the same commit, where the manifest asks for it."""
    if not ships_at_once(job, job.stage):
        return job
    return job.advance(Shipped(), ship_op(job.id, lease_epoch), "coordinator", now, stage=Stage.SHIPPED)
