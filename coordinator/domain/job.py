"""One function per transition, each pure: job, operation, moment -> next job, or a refusal.

The epoch names the next term while nobody holds the job and the running one while somebody does. A grant uses
it up (`granted_epoch = lease_epoch`); every way back to `queued` or `blocked` moves past what was granted.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from coordinator.domain import ops
from coordinator.domain.dag import waits_for
from coordinator.domain.retry import LOST_IN_A_ROW_MAX, charged, exhausted, retry_at, waits_for_retry
from coordinator.domain.table import TABLE, Action
from schemas.base import timestamp_text
from schemas.ids import ship_op, start_op
from schemas.job import CHARGED, BlockedReason, Checkpoint, Holder, Job, Outcome, Result, Retries, Stage, Stop
from schemas.manifest import BODY_INLINE_MAX

Decided = Job | ops.Rejected

WAITS_FOR_DEPS = ("deps", "dep_failed")


def decide(job: Job | None, op: ops.Op, now: datetime) -> Decided:
    """The whole of deciding, but for the guards that a rule over several jobs needs (see `guards`)."""
    if isinstance(op, ops.Submit):
        return submit(op, now) if job is None else _taken(job)
    assert job is not None, "only a submit makes a job from nothing"
    if isinstance(op, ops.HolderOp) and not _holds(job, op):
        return _fenced(job, op)
    rule = TABLE.get((job.stage, op.action))
    if rule is None or op.actor_kind not in rule.actors:
        return _illegal(job, op)
    decided = _TRANSITIONS[type(op)](job, op, now)
    if isinstance(decided, Job):
        assert decided.stage in rule.targets, (job.stage, op.action, decided.stage)
        assert (not decided.held) if rule.ends_term else True
    return decided


def _holds(job: Job, op: ops.HolderOp) -> bool:
    holder = job.holder
    return (
        holder is not None
        and holder.factory_id == op.factory_id
        and holder.session_id == op.session_id
        and job.lease_epoch == op.lease_epoch
    )


def _fenced(job: Job, op: ops.HolderOp) -> ops.Rejected:
    held_by = f"held by {job.holder.factory_id}" if job.holder else "held by nobody"
    return ops.Rejected(
        "fenced",
        f"term {op.lease_epoch} of {job.id} is not yours: the job is {held_by}, its epoch is {job.lease_epoch}",
        {"leaseEpoch": job.lease_epoch, "stage": str(job.stage)},
    )


def _illegal(job: Job, op: ops.Op, why: str = "") -> ops.Rejected:
    return illegal(job, op.action, op.actor_kind, why)


def illegal(job: Job, action: Action, actor_kind: str, why: str = "") -> ops.Rejected:
    """The refusal of an action that the job's stage does not know."""
    legal = sorted(action for stage, action in TABLE if stage is job.stage)
    return ops.Rejected(
        "illegal_transition",
        why or f"a job that is {job.stage} has no {action} by {actor_kind}; legal are: {', '.join(legal) or 'none'}",
        {"stage": str(job.stage), "action": str(action)},
    )


def submit(op: ops.Submit, now: datetime) -> Job:
    """nothing -> queued | blocked, with the reason."""
    manifest, key = op.manifest, op.key
    waits = waits_for(manifest.deps_mode, op.deps)
    inline = len(manifest.body.encode()) <= BODY_INLINE_MAX
    job = Job(
        id=key.job_id,
        product_id=key.product_id,
        title=manifest.title,
        deps=tuple(dep.id for dep in op.deps),
        deps_mode=manifest.deps_mode,
        manifest_snapshot=manifest.snapshot,
        body_md=manifest.body if inline else None,
        profile=manifest.profile,
        capabilities=tuple(sorted(set(manifest.capabilities))),
        engine=manifest.engine,
        priority=manifest.priority,
        lock=manifest.lock,
        timeout_s=manifest.timeout_s,
        budget=manifest.budget,
        retries=manifest.retries,
        stage=Stage.BLOCKED if waits else Stage.QUEUED,
        stage_since=now,
        blocked_reason=waits or None,
        waiting_since=now,
        repo=manifest.repo,
        cwd=manifest.cwd,
        ref=manifest.ref,
        verify=manifest.verify,
        review=manifest.review,
        ship=manifest.ship,
        yolo=manifest.yolo,
        idempotency_key=op.idempotency_key,
        manifest_sha256=manifest.sha256,
        sort_key=f"{timestamp_text(now)}:{key.job_id}",
        created_at=now,
        updated_at=now,
    )
    return job.advance("submitted", op.id, op.actor, now, {"title": job.title})


def _taken(job: Job) -> ops.Rejected:
    return ops.Rejected("conflict", f"the key names job {job.id}, submitted with another manifest", {"jobId": job.id})


def claim(job: Job, op: ops.Claim, now: datetime) -> Decided:
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
    data = {
        "factoryId": op.factory_id,
        "sessionId": op.session_id,
        "requestId": op.request_id,
        "engine": str(job.engine),
        "attempt": job.attempt + 1,
        "choice": op.choice.to_doc(),
    }
    return job.advance(
        "claimed", op.id, op.actor, now, data,
        stage=Stage.ASSIGNED, holder=holder, granted_epoch=job.lease_epoch, attempt=job.attempt + 1,
        result=None, not_before=None,
    )  # fmt: skip


def start(job: Job, op: ops.Start, now: datetime) -> Decided:
    """assigned -> building."""
    return job.advance("started", op.id, op.actor, now, {"sessionId": op.session_id}, stage=Stage.BUILDING)


def save_checkpoint(job: Job, op: ops.SaveCheckpoint, now: datetime) -> Decided:
    """assigned | building, staying. Numbers only rise within a term; work that is kept ends a row of losses."""
    known = job.checkpoint
    saved = op.checkpoint.model_copy(update={"lease_epoch": op.lease_epoch})
    if known is not None and known.lease_epoch == op.lease_epoch and saved.number <= known.number:
        return ops.Rejected(
            "conflict",
            f"checkpoint {op.checkpoint.number} is not above {known.number}",
            {"number": known.number},
        )
    data = {"sessionId": op.session_id, **saved.to_doc()}
    return job.advance("checkpointed", op.id, op.actor, now, data, checkpoint=saved, lost_in_a_row=0)


def end(job: Job, op: ops.End, now: datetime) -> Decided:
    """assigned | building -> what the outcome says; first a start, where its own message never arrived."""
    if op.result.outcome is Outcome.OK and (unproven := _unproven(job, op.result)):
        return ops.Rejected(
            "invalid_request",
            f"an outcome ok needs evidence in result.verify, with rc 0, of: {', '.join(unproven)}",
            {"verify": list(job.verify)},
        )
    if op.action is Action.REPORT and job.stage is Stage.ASSIGNED:
        started = {"sessionId": op.session_id}
        job = job.advance("started", start_op(job.id, op.lease_epoch), op.actor, now, started, stage=Stage.BUILDING)
    outcome = op.result.outcome
    result = op.result
    event = "released" if op.action is Action.RELEASE else "reported"
    if job.stop is not None and job.stop.kind == "cancel" and outcome is not Outcome.OK:
        result = op.result.model_copy(update={"outcome": Outcome.CANCELLED})
    changes: dict[str, Any] = {
        "result": result,
        "retries": charged(job.retries, result.outcome),
        "lost_in_a_row": 0,
        "spend": job.spend.model_copy(
            update={
                "usd": job.spend.usd + op.insights.cost_usd,
                "tokens": job.spend.tokens + op.insights.tokens_in + op.insights.tokens_out,
            }
        ),
    }
    if op.checkpoint is not None:  # the holder's last word on its work
        changes["checkpoint"] = op.checkpoint.model_copy(update={"lease_epoch": op.lease_epoch})
    data = {
        "sessionId": op.session_id,
        "outcome": str(result.outcome),
        "result": result.to_doc(),
        "insights": op.insights.to_doc(),
    }
    ended = job.advance(
        event,
        op.id,
        op.actor,
        now,
        data,
        **changes,
        **_after(job, result.outcome, now, op.jitter),
        **_no_holder(job),
    )
    return _shipped_at_once(ended, op.lease_epoch, now)


def _unproven(job: Job, result: Result) -> list[str]:
    """Done is evidence: the commands of the manifest that the report does not show to have passed."""
    passed = {evidence.command for evidence in result.verify if evidence.rc == 0}
    failed = {evidence.command for evidence in result.verify if evidence.rc != 0}
    return [command for command in job.verify if command not in passed - failed]


def _after(job: Job, outcome: Outcome, now: datetime, jitter: float) -> dict[str, Any]:
    """Where an outcome leads, with all that the target stage brings along."""
    match outcome:
        case Outcome.OK:
            return {"stage": Stage.REVIEW if job.review else Stage.TESTING, "approvals": ()}
        case Outcome.DECOMPOSED:
            waits = BlockedReason(kind="children", text="waits for the children it was decomposed into")
            return {"stage": Stage.BLOCKED, "blocked_reason": waits, **_next_epoch(job)}
        case Outcome.BUDGET:
            asks = BlockedReason(kind="budget", text="its own budget is used up: raise it and requeue, or cancel")
            return {"stage": Stage.BLOCKED, "blocked_reason": asks, **_next_epoch(job)}
        case Outcome.CANCELLED:
            return {"stage": Stage.FAILED, **_next_epoch(job)}
        case Outcome.QUOTA_EXHAUSTED | Outcome.RELEASED | Outcome.PREEMPTED | Outcome.LOST:
            return {"stage": Stage.QUEUED, **_next_epoch(job)}
        case _:
            assert outcome in CHARGED
            return {"stage": Stage.FAILED, "not_before": retry_at(job.retries, outcome, now, jitter)}


def _next_epoch(job: Job) -> dict[str, Any]:
    return {"lease_epoch": job.granted_epoch + 1}


def _no_holder(job: Job) -> dict[str, Any]:
    assert job.holder is not None
    return {"holder": None, "stop": None, "last_factory_id": job.holder.factory_id}


def ships_at_once(job: Job, stage: Stage) -> bool:
    """Whether what brings the job to this stage ships it in the same commit."""
    return stage is Stage.TESTING and job.ship == "auto"


def _shipped_at_once(job: Job, lease_epoch: int, now: datetime) -> Job:
    """testing -> shipped in the same commit, where the manifest asks for it."""
    if not ships_at_once(job, job.stage):
        return job
    return job.advance("shipped", ship_op(job.id, lease_epoch), "coordinator", now, stage=Stage.SHIPPED)


def reap(job: Job, op: ops.Reap, now: datetime) -> Decided:
    """assigned | building -> queued | failed (cancelled) | dead_letter (crash loop). The lease is closed before."""
    if job.lease_epoch != op.lease_epoch:
        return ops.Rejected("fenced", f"term {op.lease_epoch} has ended already", {"leaseEpoch": job.lease_epoch})
    if op.cause is ops.Cause.STOP_DEADLINE and job.stop is None:
        return _illegal(job, op, "no stop was asked for")
    outcome = Outcome.LOST
    if job.stage is Stage.ASSIGNED and op.cause in (ops.Cause.MISSING, ops.Cause.NOT_STARTED, ops.Cause.VANISHED):
        outcome = Outcome.RELEASED  # no engine ran, as far as anybody knows: nothing was lost
    if op.cause is ops.Cause.STOP_DEADLINE:
        outcome = Outcome.PREEMPTED
    if job.stop is not None and job.stop.kind == "cancel":
        outcome = Outcome.CANCELLED
    lost_in_a_row = job.lost_in_a_row + 1 if outcome is Outcome.LOST else job.lost_in_a_row
    changes = {**_after(job, outcome, now, 0.0), **_no_holder(job), "lost_in_a_row": lost_in_a_row}
    text = f"ended by the coordinator: {op.cause}"
    if outcome is Outcome.LOST and lost_in_a_row >= LOST_IN_A_ROW_MAX:
        changes |= {"stage": Stage.DEAD_LETTER, "lease_epoch": job.lease_epoch}
        text = f"crash_loop: {lost_in_a_row} terms in a row were lost without a new checkpoint"
    result = Result(outcome=outcome, summary=text)
    data = {"outcome": str(outcome), "cause": str(op.cause), "result": result.to_doc()}
    return job.advance("reaped", op.id, op.actor, now, data, **changes, result=result)


def request_stop(job: Job, op: ops.RequestStop, now: datetime) -> Decided:
    """Held: the holder is told, cancel over preempt. Not held: a cancel is final at once."""
    data = {"kind": op.kind, "reason": op.reason}
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
        return job.advance("stop_requested", op.id, op.actor, now, data, stop=stop)
    if job.stage is Stage.FAILED and not waits_for_retry(job):
        return _illegal(job, op, "the job has failed for good: there is nothing to cancel")
    result = Result(outcome=Outcome.CANCELLED, summary=op.reason)
    return job.advance(
        "cancelled", op.id, op.actor, now, data,
        stage=Stage.FAILED, result=result, not_before=None, blocked_reason=None, **_next_epoch(job),
    )  # fmt: skip


def operate(job: Job, op: ops.Operate, now: datetime) -> Decided:
    """testing -> shipped; review | testing -> failed; testing | failed | dead_letter | blocked -> queued."""
    data: dict[str, Any] = {"reason": op.reason}
    if op.action is Action.SHIP:
        return job.advance("shipped", op.id, op.actor, now, data, stage=Stage.SHIPPED)
    if op.action is Action.REJECT:
        return job.advance("rejected", op.id, op.actor, now, data, stage=Stage.FAILED, result=_rejected(op.reason))
    assert op.action is Action.REQUEUE
    if job.stage is Stage.BLOCKED and (job.blocked_reason is None or job.blocked_reason.kind in WAITS_FOR_DEPS):
        return _illegal(job, op, "a job that waits for its deps is queued when they are shipped")
    return job.advance("requeued", op.id, op.actor, now, data, **_requeued(job, op.checkpoint))


def _rejected(reason: str | None) -> Result:
    return Result(outcome=Outcome.CANCELLED, summary=f"rejected: {reason}" if reason else "rejected")


def _requeued(job: Job, checkpoint: Checkpoint | None = None) -> dict[str, Any]:
    """A person's decision to try again gives all tries back."""
    fresh = Retries(max=job.retries.max, backoff_s=job.retries.backoff_s)
    changes: dict[str, Any] = {
        "stage": Stage.QUEUED,
        "not_before": None,
        "blocked_reason": None,
        "retries": fresh,
        "lost_in_a_row": 0,
        "approvals": (),
        **_next_epoch(job),
    }
    if checkpoint is not None:
        changes["checkpoint"] = checkpoint.model_copy(update={"lease_epoch": job.granted_epoch})
    return changes


def review(job: Job, op: ops.Review, now: datetime) -> Decided:
    """review -> testing (-> shipped) at the quorum, -> queued with changes requested, -> failed rejected."""
    data: dict[str, Any] = {"verdict": op.verdict, "reason": op.reason}
    if op.verdict == "request_changes":
        return job.advance("changes_requested", op.id, op.actor, now, data, **_requeued(job))
    if op.verdict == "reject":
        return job.advance("rejected", op.id, op.actor, now, data, stage=Stage.FAILED, result=_rejected(op.reason))
    if op.actor in job.approvals:
        return ops.Rejected("conflict", f"{op.actor} has approved this already", {"approvals": list(job.approvals)})
    approvals = (*job.approvals, op.actor)
    stage = Stage.TESTING if len(approvals) >= job.review else Stage.REVIEW
    approved = job.advance("approved", op.id, op.actor, now, data, stage=stage, approvals=approvals)
    return _shipped_at_once(approved, job.lease_epoch, now)


def follow_up(job: Job, op: ops.FollowUp, now: datetime) -> Decided:
    """blocked -> queued, blocked with another reason, failed -> queued | dead_letter; only as seen at `seq`."""
    if job.seq != op.seq:
        return ops.Rejected("conflict", f"the job moved on to {job.seq}", {"seq": job.seq})
    match op.action:
        case Action.UNBLOCK:
            changes = {
                "stage": Stage.QUEUED,
                "blocked_reason": None,
                "waiting_since": now,
                **_next_epoch(job),
            }
            return job.advance("unblocked", op.id, op.actor, now, **changes)
        case Action.EXPLAIN_BLOCK:
            assert op.blocked_reason is not None
            data = op.blocked_reason.to_doc()
            return job.advance("block_explained", op.id, op.actor, now, data, blocked_reason=op.blocked_reason)
        case Action.RETRY:
            if job.not_before is None or job.not_before > now:
                return _illegal(job, op, "no retry is due")
            changes = {"stage": Stage.QUEUED, "not_before": None, **_next_epoch(job)}
            return job.advance("retried", op.id, op.actor, now, **changes)
        case _:
            assert op.action is Action.BURY
            if not exhausted(job):
                return _illegal(job, op, "its retries are not used up")
            return job.advance("buried", op.id, op.actor, now, stage=Stage.DEAD_LETTER)


_TRANSITIONS: dict[type[ops.Op], Callable[[Job, Any, datetime], Decided]] = {
    ops.Claim: claim,
    ops.Start: start,
    ops.SaveCheckpoint: save_checkpoint,
    ops.End: end,
    ops.Reap: reap,
    ops.RequestStop: request_stop,
    ops.Operate: operate,
    ops.Review: review,
    ops.FollowUp: follow_up,
}
