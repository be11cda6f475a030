"""What can be asked of a job. Each operation has an id: the event that it leaves carries it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from coordinator.domain.table import Action, Actor
from schemas import ids
from schemas.ids import JobKey
from schemas.job import BlockedReason, Job
from schemas.manifest import Manifest
from schemas.outcome import Result
from schemas.projections import Choice, Insights
from schemas.work import Checkpoint


class Cause(StrEnum):
    """Why the coordinator ended a term. The lease is closed first, whichever it is."""

    EXPIRED = "expired"
    NOT_STARTED = "not_started"
    MISSING = "missing"
    SESSION_GONE = "session_gone"
    VANISHED = "vanished"
    STOP_DEADLINE = "stop_deadline"


@dataclass(frozen=True, kw_only=True)
class Op:
    """`may_be_legal_again`: a repeat must be recognised before deciding, since deciding could allow it anew.
    `creates`: the operation makes the job, from nothing.
    """

    id: str
    actor: str
    action: Action
    actor_kind: Actor
    may_be_legal_again: bool = False
    creates: bool = False

    def concerns(self, job: Job) -> bool:
        """Whether an event of this job that carries the operation's id tells of this very operation."""
        return True


@dataclass(frozen=True, kw_only=True)
class Submit(Op):
    """A manifest becomes a job. Every submit under one key has the same id: the manifest tells them apart."""

    key: JobKey
    manifest: Manifest
    idempotency_key: str
    deps: tuple[Job, ...] = ()
    action: Action = Action.SUBMIT
    actor_kind: Actor = Actor.OPERATOR
    creates: bool = True

    @classmethod
    def of(cls, key: JobKey, manifest: Manifest, idempotency_key: str, deps: Sequence[Job], actor: str) -> Submit:
        op_id = ids.submit_op(idempotency_key)
        return cls(id=op_id, actor=actor, key=key, manifest=manifest, idempotency_key=idempotency_key, deps=tuple(deps))

    def concerns(self, job: Job) -> bool:
        return job.manifest_sha256 == self.manifest.sha256


@dataclass(frozen=True, kw_only=True)
class Claim(Op):
    factory_id: str
    session_id: str
    session_no: int
    ask_no: int
    request_id: str
    choice: Choice
    action: Action = Action.CLAIM
    actor_kind: Actor = Actor.HOLDER


@dataclass(frozen=True, kw_only=True)
class HolderOp(Op):
    """Counts only if factory, session and epoch are exactly the holder's."""

    factory_id: str
    session_id: str
    lease_epoch: int
    actor_kind: Actor = Actor.HOLDER


@dataclass(frozen=True, kw_only=True)
class Start(HolderOp):
    action: Action = Action.START


@dataclass(frozen=True, kw_only=True)
class SaveCheckpoint(HolderOp):
    checkpoint: Checkpoint
    action: Action = Action.CHECKPOINT


@dataclass(frozen=True, kw_only=True)
class End(HolderOp):
    """A report or a release. `jitter` in [0, 1) spreads retries; it is drawn once, before any try. `elsewhere`: whether
    another factory could do it, where this one says that it cannot.
    """

    result: Result
    insights: Insights = field(default_factory=Insights)
    checkpoint: Checkpoint | None = None
    jitter: float = 0.0
    elsewhere: bool = True
    action: Action = Action.REPORT


@dataclass(frozen=True, kw_only=True)
class Reap(Op):
    lease_epoch: int
    cause: Cause
    action: Action = Action.REAP
    actor: str = "coordinator"
    actor_kind: Actor = Actor.COORDINATOR

    @classmethod
    def of(cls, key: JobKey, lease_epoch: int, cause: Cause) -> Reap:
        return cls(id=ids.reap_op(key.job_id, lease_epoch, cause), lease_epoch=lease_epoch, cause=cause)


@dataclass(frozen=True, kw_only=True)
class Operate(Op):
    """An operator's action without further arguments: ship, requeue, reject."""

    reason: str | None = None
    checkpoint: Checkpoint | None = None
    actor_kind: Actor = Actor.OPERATOR
    may_be_legal_again: bool = True


@dataclass(frozen=True, kw_only=True)
class RequestStop(Op):
    """Cancel, or preempt of one named term. Running work is told and given until `deadline`."""

    kind: Literal["cancel", "preempt"]
    deadline: datetime
    lease_epoch: int | None = None
    reason: str | None = None
    actor_kind: Actor = Actor.OPERATOR
    may_be_legal_again: bool = True


@dataclass(frozen=True, kw_only=True)
class Review(Op):
    verdict: Literal["approve", "request_changes", "reject"]
    reason: str | None = None
    actor_kind: Actor = Actor.OPERATOR
    may_be_legal_again: bool = True


@dataclass(frozen=True, kw_only=True)
class FollowUp(Op):
    """The coordinator's own step on a job as it stood at `seq`: unblock, explain the block, retry, bury."""

    seq: int
    blocked_reason: BlockedReason | None = None
    actor: str = "coordinator"
    actor_kind: Actor = Actor.COORDINATOR

    @classmethod
    def of(cls, key: JobKey, seq: int, action: Action, blocked_reason: BlockedReason | None = None) -> FollowUp:
        return cls(
            id=ids.follow_up_op(key.job_id, seq, action),
            action=action,
            seq=seq,
            blocked_reason=blocked_reason,
        )


@dataclass(frozen=True)
class Rejected:
    """A refusal: nothing changed, and nothing will."""

    reason: Literal[
        "not_found", "invalid_request", "fenced", "illegal_transition", "conflict", "lock_busy", "budget_paused"
    ]
    message: str
    detail: dict[str, Any] = field(default_factory=dict)
    job: Job | None = None  # as it stood when this was last looked at, where it was read
