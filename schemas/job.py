"""The job document: the one place that says who holds a job."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from schemas.base import Schema, Timestamp
from schemas.ids import JobKey, event_id, run_id
from schemas.projections import EventDoc


class Stage(StrEnum):
    QUEUED = "queued"
    BLOCKED = "blocked"
    ASSIGNED = "assigned"
    BUILDING = "building"
    REVIEW = "review"
    TESTING = "testing"
    SHIPPED = "shipped"
    FAILED = "failed"
    DEAD_LETTER = "dead_letter"


HELD = frozenset({Stage.ASSIGNED, Stage.BUILDING})

BUCKETS: dict[Stage, str] = {
    Stage.QUEUED: "inbox",
    Stage.BLOCKED: "inbox",
    Stage.ASSIGNED: "building",
    Stage.BUILDING: "building",
    Stage.REVIEW: "review",
    Stage.TESTING: "testing",
    Stage.SHIPPED: "shipped",
    Stage.FAILED: "failed",
    Stage.DEAD_LETTER: "failed",
}


class Engine(StrEnum):
    CLAUDE = "claude"
    CODEX = "codex"
    DEVIN = "devin"
    SHELL = "shell"


class Priority(StrEnum):
    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Outcome(StrEnum):
    """How a term ended."""

    OK = "ok"
    DECOMPOSED = "decomposed"
    VERIFY_FAILED = "verify_failed"
    ENGINE_FAILED = "engine_failed"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    BUDGET = "budget"
    QUOTA_EXHAUSTED = "quota_exhausted"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    RELEASED = "released"
    LOST = "lost"


CHARGED = frozenset({Outcome.VERIFY_FAILED, Outcome.ENGINE_FAILED, Outcome.TIMEOUT, Outcome.STALLED})


class Budget(Schema):
    usd: float | None = None
    tokens: int | None = None
    wall_s: float | None = None


class Retries(Schema):
    max: int = 2
    used: int = 0
    backoff_s: float = 30.0


class Holder(Schema):
    factory_id: str
    session_id: str
    session_no: int
    ask_no: int
    run_id: str
    request_id: str


GitRef = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^-\s]\S*$")]
GitCommit = Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")]


class Checkpoint(Schema):
    """Work in progress that outlives its holder: a commit, reachable as `ref` in the job's repository."""

    ref: GitRef
    commit: GitCommit
    at: Timestamp
    lease_epoch: int = 0  # the term that saved it; within a term, numbers only rise
    number: int = 0
    local: str | None = None  # the factory on whose machine alone it lies, when there is no remote


class Stop(Schema):
    kind: Literal["cancel", "preempt"]
    by: str
    deadline: Timestamp
    reason: str | None = None


class BlockedReason(Schema):
    kind: Literal["deps", "dep_failed", "budget", "children"]
    text: str


class VerifyEvidence(Schema):
    """One verify command as the factory ran it."""

    command: str
    rc: int
    tail: str = ""


class Result(Schema):
    outcome: Outcome
    summary: str | None = None
    branch: str | None = None
    commit: str | None = None
    pull_request: str | None = None
    verify: tuple[VerifyEvidence, ...] = ()
    claimed: str | None = None  # what the engine says of itself: shown, never believed


class Spend(Schema):
    usd: float = 0.0
    tokens: int = 0


class Job(Schema):
    id: str
    product_id: str
    kind: Literal["task", "composite"] = "task"
    title: str
    parent_id: str | None = None
    deps: tuple[str, ...] = ()
    deps_mode: Literal["all", "any"] = "all"
    manifest_snapshot: str
    body_md: str | None  # None: the body is over BODY_INLINE_MAX and has a document of its own
    profile: str | None = None
    capabilities: tuple[str, ...] = ()
    engine: Engine
    priority: Priority = Priority.NORMAL
    lock: str | None = None
    timeout_s: float
    budget: Budget = Budget()
    retries: Retries = Retries()
    stage: Stage
    stage_since: Timestamp
    not_before: Timestamp | None = None
    blocked_reason: BlockedReason | None = None
    lease_epoch: int = 1
    granted_epoch: int = 0
    holder: Holder | None = None
    last_factory_id: str | None = None
    lost_in_a_row: int = 0
    waiting_since: Timestamp
    repo: str | None = None
    cwd: str | None = None
    ref: str | None = None
    verify: tuple[str, ...] = ()
    review: int = 0
    ship: Literal["auto", "manual"] = "manual"
    yolo: bool = False
    stop: Stop | None = None
    attempt: int = 0
    checkpoint: Checkpoint | None = None
    result: Result | None = None
    approvals: tuple[str, ...] = ()
    spend: Spend = Spend()
    reserved: float = 0.0
    idempotency_key: str
    manifest_sha256: str
    sort_key: str  # createdAt and id: unique, so that lists can be paged in order of creation
    created_at: Timestamp
    updated_at: Timestamp
    seq: int = 0
    outbox: tuple[EventDoc, ...] = Field(default=())
    pending_events: int = 0
    rev: int = 0

    @property
    def key(self) -> JobKey:
        return JobKey(self.product_id, self.id)

    @property
    def held(self) -> bool:
        return self.holder is not None

    def has_applied(self, op_id: str, above: int = -1) -> bool:
        """Whether an event of the outbox above `above` carries this op id."""
        return any(event.op_id == op_id and event.seq > above for event in self.outbox)

    def advance(
        self,
        event_type: str,
        op_id: str,
        actor: str,
        now: datetime,
        data: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Self:
        """The next state, with the one event that tells of it appended to the outbox."""
        stage = changes.get("stage", self.stage)
        event = EventDoc(
            id=event_id(self.id, self.seq + 1),
            job_id=self.id,
            product_id=self.product_id,
            seq=self.seq + 1,
            type=event_type,
            at=now,
            actor=actor,
            op_id=op_id,
            from_stage=self.stage if self.seq else None,
            to_stage=stage,
            lease_epoch=self.lease_epoch,
            data=data or {},
        )
        if stage is not self.stage:
            changes["stage_since"] = now
        changes |= {
            "seq": event.seq,
            "outbox": (*self.outbox, event),
            "pending_events": len(self.outbox) + 1,
            "updated_at": now,
        }
        return self.model_copy(update=changes)

    def held_run_id(self) -> str:
        return run_id(self.id, self.lease_epoch)
