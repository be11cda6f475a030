"""Transitions that a holder makes, each pure: job, operation, moment -> next job, or a refusal.

The epoch names the next term while nobody holds the job and the running one while somebody does. A grant uses
it up (`granted_epoch = lease_epoch`); every way back to `queued` or `blocked` moves past what was granted.
"""

from __future__ import annotations

from datetime import datetime

from coordinator.domain import ops
from coordinator.domain.patches import after_outcome, shipped_at_once, without_holder
from coordinator.domain.retry import charged
from coordinator.domain.table import Action
from schemas.events import Checkpointed, Claimed, Released, Reported, Started
from schemas.ids import start_op
from schemas.job import Holder, Job, JobChanges, Stage
from schemas.outcome import Avoided, Outcome, Result, Unpublished

AVOID_MAX = 16  # so many machines that cannot: it is the job, whatever they say
REASON_CHARS = 300
DONE = (Outcome.OK, Outcome.UNPUBLISHED)


def claim(job: Job, op: ops.Claim, now: datetime) -> Job | ops.Rejected:
    """queued -> assigned. A grant uses the epoch up."""
    assert job.lease_epoch > job.granted_epoch
    assert job.holder is None
    if job.checkpoint is not None and job.checkpoint.local not in (None, op.factory_id):
        where = job.checkpoint.local
        return ops.Rejected("conflict", f"the work so far lies on {where} alone", {"local": where})
    holder = Holder(
        factory_id=op.factory_id,
        session_id=op.session_id,
        session_no=op.session_no,
        ask_no=op.ask_no,
        run_id=job.held_run_id(),
        request_id=op.request_id,
    )
    told = Claimed(
        factory_id=op.factory_id,
        session_id=op.session_id,
        request_id=op.request_id,
        engine=str(job.engine),
        attempt=job.attempt + 1,
        choice=op.choice,
    )
    return job.advance(
        told, op.id, op.actor, now,
        stage=Stage.ASSIGNED, holder=holder, granted_epoch=job.lease_epoch, attempt=job.attempt + 1,
        result=None, not_before=None,
    )  # fmt: skip


def start(job: Job, op: ops.Start, now: datetime) -> Job:
    """assigned -> building."""
    return job.advance(Started(session_id=op.session_id), op.id, op.actor, now, stage=Stage.BUILDING)


def save_checkpoint(job: Job, op: ops.SaveCheckpoint, now: datetime) -> Job | ops.Rejected:
    """assigned | building, staying. Numbers only rise within a term; work that is kept ends a row of losses."""
    known = job.checkpoint
    saved = op.checkpoint.model_copy(update={"lease_epoch": op.lease_epoch})
    if known is not None and known.lease_epoch == op.lease_epoch and saved.number <= known.number:
        return ops.Rejected(
            "conflict",
            f"checkpoint {op.checkpoint.number} is not above {known.number}",
            {"number": known.number},
        )
    told = Checkpointed(session_id=op.session_id, **dict(saved))
    return job.advance(told, op.id, op.actor, now, checkpoint=saved, lost_in_a_row=0)


def end(job: Job, op: ops.End, now: datetime) -> Job | ops.Rejected:
    """assigned | building -> what the outcome says; first a start, where its own message never arrived."""
    result = with_earlier_evidence(job, op.result)
    if result.outcome in DONE and (unproven := unproven_by(job, result)):
        return ops.Rejected(
            "invalid_request",
            f"an outcome {result.outcome} needs evidence in result.verify, with rc 0, of: {', '.join(unproven)}",
            {"verify": list(job.verify)},
        )
    if op.action is Action.REPORT and job.stage is Stage.ASSIGNED:
        told = Started(session_id=op.session_id)
        job = job.advance(told, start_op(job.id, op.lease_epoch), op.actor, now, stage=Stage.BUILDING)
    if job.stop is not None and job.stop.kind == "cancel" and result.outcome is not Outcome.OK:
        result = result.model_copy(update={"outcome": Outcome.CANCELLED})
    leads_to, avoid = after_outcome(job, result.outcome, now, op.jitter), job.avoid
    if result.outcome is Outcome.MACHINE_FAILED:
        avoid = avoiding(job, op)
        if not op.elsewhere or len(avoid) >= AVOID_MAX:
            leads_to = {"stage": Stage.FAILED, "not_before": None}
            result = result.model_copy(update={"summary": nobody_could(avoid)})
    spend = job.spend.model_copy(
        update={
            "usd": job.spend.usd + op.insights.cost_usd,
            "tokens": job.spend.tokens + op.insights.tokens_in + op.insights.tokens_out,
        }
    )
    last_word = op.checkpoint.model_copy(update={"lease_epoch": op.lease_epoch}) if op.checkpoint else job.checkpoint
    changes: JobChanges = {
        **leads_to,
        **without_holder(job),
        "result": result,
        "retries": charged(job.retries, result.outcome),
        "lost_in_a_row": 0,
        "avoid": avoid,
        "unpublished": left_to_publish(job, result),
        "spend": spend,
        "checkpoint": last_word,
    }
    ending = Released if op.action is Action.RELEASE else Reported
    told_end = ending(session_id=op.session_id, outcome=str(result.outcome), result=result, insights=op.insights)
    ended = job.advance(told_end, op.id, op.actor, now, **changes)
    return shipped_at_once(ended, op.lease_epoch, now)


def avoiding(job: Job, op: ops.End) -> tuple[Avoided, ...]:
    """Those that could not do it, this one with its newest reason."""
    others = tuple(one for one in job.avoid if one.factory_id != op.factory_id)
    return (*others, Avoided(factory_id=op.factory_id, reason=(op.result.summary or "")[:REASON_CHARS]))


def nobody_could(avoid: tuple[Avoided, ...]) -> str:
    reasons = "\n".join(f"{one.factory_id}: {one.reason}" for one in avoid)
    return f"no factory that fits could run it:\n{reasons}"


def left_to_publish(job: Job, result: Result) -> Unpublished | None:
    """A term that was lost or released has published nothing; one that ran anew has made something else."""
    if result.outcome is Outcome.UNPUBLISHED:
        return Unpublished(commit=result.commit, verify=result.verify)
    return None if result.outcome is Outcome.OK else job.unpublished


def with_earlier_evidence(job: Job, result: Result) -> Result:
    """Of a term that only published: its work was verified by the one before, and is the same commit."""
    done = job.unpublished if job.is_to_be_published else None
    if done is None or result.verify or result.commit != done.commit:
        return result
    return result.model_copy(update={"verify": done.verify})


def unproven_by(job: Job, result: Result) -> list[str]:
    """Done is evidence: the commands of the manifest that the report does not show to have passed."""
    passed = {evidence.command for evidence in result.verify if evidence.rc == 0}
    failed = {evidence.command for evidence in result.verify if evidence.rc != 0}
    return [command for command in job.verify if command not in passed - failed]
