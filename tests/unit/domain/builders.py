"""Builders: jobs brought into each situation by the transitions that lead there, and an operation for each ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from coordinator.domain import ops
from coordinator.domain.decide import decide
from coordinator.domain.table import Action, Actor
from schemas import ids
from schemas.ids import JobKey
from schemas.job import BlockedReason, Job
from schemas.manifest import parse_manifest
from schemas.outcome import Outcome
from schemas.projections import Choice, Insights
from schemas.work import Checkpoint, Retries
from tests.support.fleet import PRODUCT, evident, manifest

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=1)  # past every retry that a test waits for


def new(name: str = "job", deps: tuple[Job, ...] = (), **keys: Any) -> Job:
    """A job as submitted with these front-matter keys."""
    submit = ops.Submit.of(JobKey(PRODUCT, name), parse_manifest(manifest(**keys)), f"key-{name}", deps, "op:ann")
    made = decide(None, submit, NOW)
    assert isinstance(made, Job)
    return made


def then(job: Job, *steps: Callable[[Job], ops.Op], now: datetime = NOW) -> Job:
    """The job after these steps, each of which must be legal."""
    for step in steps:
        decided = decide(job, step(job), now)
        assert isinstance(decided, Job), decided
        job = decided
    return job


def submit(job: Job) -> ops.Submit:
    """Another manifest under the key of this job."""
    return ops.Submit.of(job.key, parse_manifest(manifest("do that\n")), job.idempotency_key, (), "op:ann")


def claim(job: Job, factory_id: str = "f1", session_id: str = "s1") -> ops.Claim:
    return ops.Claim(
        id=f"claim:{factory_id}:{job.seq}",
        actor=f"factory:{factory_id}",
        factory_id=factory_id,
        session_id=session_id,
        session_no=1,
        ask_no=1,
        request_id="r1",
        choice=Choice(weights_version="v"),
    )


def of_holder(job: Job, **changes: Any) -> dict[str, Any]:
    """Who asks: the job's holder, with its term."""
    mine = {"actor": "factory:f1", "factory_id": "f1", "session_id": "s1", "lease_epoch": job.lease_epoch}
    return {**mine, **changes}


def start(job: Job, **changes: Any) -> ops.Start:
    return ops.Start(id=ids.start_op(job.id, job.lease_epoch), **of_holder(job, **changes))


def saved(number: int = 1, local: str | None = None, lease_epoch: int = 0) -> Checkpoint:
    where = {"ref": "refs/gigafactory/job/1", "commit": "a" * 40, "local": local}
    return Checkpoint(**where, at=NOW, number=number, lease_epoch=lease_epoch)


def checkpoint(job: Job, number: int | None = None, **changes: Any) -> ops.SaveCheckpoint:
    if number is None:
        number = job.checkpoint.number + 1 if job.checkpoint else 1
    op_id = ids.checkpoint_op(job.id, job.lease_epoch, number)
    return ops.SaveCheckpoint(id=op_id, checkpoint=saved(number), **of_holder(job, **changes))


def report(job: Job, outcome: Outcome = Outcome.OK, **changes: Any) -> ops.End:
    return ops.End(
        id=ids.end_op(job.id, job.lease_epoch),
        **{"result": evident(outcome, job.verify), **of_holder(job, **changes)},
    )


def reports(outcome: Outcome, **changes: Any) -> Callable[[Job], ops.Op]:
    return lambda job: report(job, outcome, **changes)


def release(job: Job, **changes: Any) -> ops.End:
    return replace(report(job, Outcome.RELEASED, **changes), action=Action.RELEASE)


def releases(**changes: Any) -> Callable[[Job], ops.Op]:
    return lambda job: release(job, **changes)


def reap(job: Job, cause: ops.Cause = ops.Cause.EXPIRED) -> ops.Reap:
    return ops.Reap.of(job.key, job.lease_epoch, cause)


def reaps(cause: ops.Cause) -> Callable[[Job], ops.Op]:
    return lambda job: reap(job, cause)


def cancel(job: Job) -> ops.RequestStop:
    return ops.RequestStop(
        id=f"action:cancel:{job.seq}", actor="op:ann", action=Action.CANCEL, kind="cancel", deadline=NOW
    )


def preempt(job: Job) -> ops.RequestStop:
    return replace(cancel(job), action=Action.PREEMPT, kind="preempt", lease_epoch=job.lease_epoch)


def operate(action: Action) -> Callable[[Job], ops.Op]:
    return lambda job: ops.Operate(id=f"action:{action}:{job.seq}", actor="op:ann", action=action)


def review(action: Action, actor: str = "op:ann") -> Callable[[Job], ops.Op]:
    verdicts = {Action.APPROVE: "approve", Action.REQUEST_CHANGES: "request_changes", Action.REJECT: "reject"}
    return lambda job: ops.Review(
        id=f"action:{action}:{job.seq}",
        actor=actor,
        action=action,
        verdict=verdicts[action],  # type: ignore[arg-type]
    )


def follow_up(action: Action) -> Callable[[Job], ops.Op]:
    reason = BlockedReason(kind="dep_failed", text="a dep failed") if action is Action.EXPLAIN_BLOCK else None
    return lambda job: ops.FollowUp.of(job.key, job.seq, action, reason)


ASK: dict[Action, Callable[[Job], ops.Op]] = {
    Action.SUBMIT: submit,
    Action.CLAIM: claim,
    Action.START: start,
    Action.CHECKPOINT: checkpoint,
    Action.REPORT: report,
    Action.RELEASE: release,
    Action.REAP: reap,
    Action.CANCEL: cancel,
    Action.PREEMPT: preempt,
    Action.APPROVE: review(Action.APPROVE),
    Action.REQUEST_CHANGES: review(Action.REQUEST_CHANGES),
    Action.SHIP: operate(Action.SHIP),
    Action.REJECT: operate(Action.REJECT),
    Action.REQUEUE: operate(Action.REQUEUE),
    Action.UNBLOCK: follow_up(Action.UNBLOCK),
    Action.EXPLAIN_BLOCK: follow_up(Action.EXPLAIN_BLOCK),
    Action.RETRY: follow_up(Action.RETRY),
    Action.BURY: follow_up(Action.BURY),
}


def asked(job: Job, action: Action, actor: Actor) -> ops.Op:
    return replace(ASK[action](job), actor_kind=actor)


def building(**keys: Any) -> Job:
    return then(new(**keys), claim, start)


def in_testing(**keys: Any) -> Job:
    return then(building(review=0, ship="manual", **keys), report)


def with_retries(most: int, backoff_s: float = 30.0) -> Job:
    return building().model_copy(update={"retries": Retries(max=most, backoff_s=backoff_s)})


def situations() -> dict[str, Job]:
    """One job in every stage, and in each variant of it that decides differently."""
    return {
        "queued": new(review=0),
        "blocked on deps": new(deps=(new("dep"),), review=0),
        "blocked on budget": then(building(review=0), reports(Outcome.BUDGET)),
        "blocked on children": then(building(review=0), reports(Outcome.DECOMPOSED)),
        "assigned": then(new(review=0), claim),
        "building": building(review=0),
        "building, told to cancel": then(building(review=0), cancel),
        "building, told to preempt": then(building(review=0), preempt),
        "review": then(building(review=1), report),
        "testing": in_testing(),
        "shipped": then(in_testing(), operate(Action.SHIP)),
        "failed, to be retried": then(building(review=0), reports(Outcome.ENGINE_FAILED)),
        "failed for good": then(new(review=0), cancel),
        "failed, retries used up": then(with_retries(0), reports(Outcome.ENGINE_FAILED)),
        "dead_letter": then(with_retries(0), reports(Outcome.ENGINE_FAILED), follow_up(Action.BURY)),
    }


def with_insights(cost_usd: float, tokens_in: int = 0, tokens_out: int = 0) -> Insights:
    return Insights(cost_usd=cost_usd, tokens_in=tokens_in, tokens_out=tokens_out)
