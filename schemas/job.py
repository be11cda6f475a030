"""The job document: the one place that says who holds a job."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal, Self, TypedDict, Unpack

from pydantic import Field

from schemas.base import Schema, Timestamp
from schemas.events import Payload
from schemas.ids import JobKey, event_id, run_id
from schemas.outcome import CHARGED, Avoided, Result, Spend, Unpublished
from schemas.projections import EventDoc
from schemas.work import Checkpoint, Request, Retries


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


class Holder(Schema):
    factory_id: str
    session_id: str
    session_no: int
    ask_no: int
    run_id: str
    request_id: str


class Stop(Schema):
    kind: Literal["cancel", "preempt"]
    by: str
    deadline: Timestamp
    reason: str | None = None


class BlockedReason(Schema):
    kind: Literal["deps", "dep_failed", "budget", "children", "unpublished"]
    text: str


class JobChanges(TypedDict, total=False):
    """What a transition may change besides what each of them changes."""

    stage: Stage
    not_before: datetime | None
    blocked_reason: BlockedReason | None
    lease_epoch: int
    granted_epoch: int
    holder: Holder | None
    last_factory_id: str | None
    lost_in_a_row: int
    avoid: tuple[Avoided, ...]
    unpublished: Unpublished | None
    waiting_since: datetime
    stop: Stop | None
    attempt: int
    checkpoint: Checkpoint | None
    result: Result | None
    approvals: tuple[str, ...]
    retries: Retries
    spend: Spend


class Job(Request):
    id: str
    product_id: str
    kind: Literal["task", "composite"] = "task"
    parent_id: str | None = None
    manifest_snapshot: str
    body_md: str | None  # None: the body is over BODY_INLINE_MAX and has a document of its own
    stage: Stage
    stage_since: Timestamp
    not_before: Timestamp | None = None
    blocked_reason: BlockedReason | None = None
    lease_epoch: int = 1
    granted_epoch: int = 0
    holder: Holder | None = None
    last_factory_id: str | None = None
    lost_in_a_row: int = 0
    avoid: tuple[Avoided, ...] = ()
    unpublished: Unpublished | None = None
    waiting_since: Timestamp
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

    def is_held_by(self, factory_id: str, session_id: str, lease_epoch: int) -> bool:
        """Whether exactly this session of this factory is in this very term."""
        holder = self.holder
        return (
            holder is not None
            and (holder.factory_id, holder.session_id) == (factory_id, session_id)
            and self.lease_epoch == lease_epoch
        )

    def is_in_term(self, lease_epoch: int) -> bool:
        return self.held and self.lease_epoch == lease_epoch

    @property
    def is_to_be_published(self) -> bool:
        """Its work is done, verified and saved, and no server has taken its branch yet."""
        done, saved = self.unpublished, self.checkpoint
        return done is not None and saved is not None and saved.commit == done.commit

    @property
    def is_finished(self) -> bool:
        """Nothing will happen to it by itself any more."""
        return is_finished(self.stage, self.not_before, self.result.outcome if self.result is not None else None)

    def advance(self, payload: Payload, op_id: str, actor: str, now: datetime, **changes: Unpack[JobChanges]) -> Self:
        """The next state, with the one event that tells of it appended to the outbox."""
        stage = changes.get("stage", self.stage)
        event = EventDoc(
            id=event_id(self.id, self.seq + 1),
            job_id=self.id,
            product_id=self.product_id,
            seq=self.seq + 1,
            type=payload.type,
            at=now,
            actor=actor,
            op_id=op_id,
            from_stage=self.stage if self.seq else None,
            to_stage=stage,
            lease_epoch=self.lease_epoch,
            data=payload.to_doc(),
        )
        always = {
            "stage_since": self.stage_since if stage is self.stage else now,
            "seq": event.seq,
            "outbox": (*self.outbox, event),
            "pending_events": len(self.outbox) + 1,
            "updated_at": now,
        }
        return self.model_copy(update={**changes, **always})

    def held_run_id(self) -> str:
        return run_id(self.id, self.lease_epoch)


def is_finished(stage: str, not_before: object, outcome: str | None) -> bool:
    """Whether nothing will happen to a job by itself any more. One that failed may wait for its retry, or, its retries
    used up, for the dead letters.
    """
    if stage == Stage.FAILED:
        return not_before is None and outcome not in CHARGED
    return stage in (Stage.SHIPPED, Stage.DEAD_LETTER)
