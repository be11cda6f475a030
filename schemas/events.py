"""Each kind of event in a job's history, with what it carries. On the wire an event's `data` is this payload, flat."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Self

from schemas.base import Schema
from schemas.outcome import Result
from schemas.projections import Choice, EventDoc, Insights
from schemas.work import Checkpoint


class EventType(StrEnum):
    SUBMITTED = "submitted"
    CLAIMED = "claimed"
    STARTED = "started"
    CHECKPOINTED = "checkpointed"
    REPORTED = "reported"
    RELEASED = "released"
    REAPED = "reaped"
    STOP_REQUESTED = "stop_requested"
    CANCELLED = "cancelled"
    SHIPPED = "shipped"
    REJECTED = "rejected"
    REQUEUED = "requeued"
    APPROVED = "approved"
    CHANGES_REQUESTED = "changes_requested"
    UNBLOCKED = "unblocked"
    BLOCK_EXPLAINED = "block_explained"
    RETRIED = "retried"
    BURIED = "buried"


TERM_ENDS = frozenset({EventType.REPORTED, EventType.RELEASED, EventType.REAPED})
"""Events that end a term."""


class Payload(Schema):
    type: ClassVar[EventType]

    @classmethod
    def of(cls, event: EventDoc) -> Self:
        """The payload of an event of this kind."""
        return cls.model_validate(event.data)


class Submitted(Payload):
    type = EventType.SUBMITTED
    title: str


class Claimed(Payload):
    type = EventType.CLAIMED
    factory_id: str
    session_id: str
    request_id: str = ""
    engine: str
    attempt: int = 1
    choice: Choice


class Started(Payload):
    type = EventType.STARTED
    session_id: str


class Checkpointed(Checkpoint, Payload):
    type = EventType.CHECKPOINTED
    session_id: str


class TermEnded(Payload):
    """What every end of a term tells."""

    outcome: str
    result: Result
    insights: Insights = Insights()


class Reported(TermEnded):
    type = EventType.REPORTED
    session_id: str


class Released(TermEnded):
    type = EventType.RELEASED
    session_id: str


class Reaped(Payload):
    """`cause`: why the coordinator ended the term."""

    type = EventType.REAPED
    outcome: str
    result: Result
    cause: str


class StopRequested(Payload):
    type = EventType.STOP_REQUESTED
    kind: str
    reason: str | None = None


class Cancelled(Payload):
    type = EventType.CANCELLED
    kind: str
    reason: str | None = None


class Decision(Payload):
    """What a person decided, and why."""

    reason: str | None = None


class Reviewed(Decision):
    """`verdict`: approve, request_changes or reject; None where it was an action and no review."""

    verdict: str | None = None


class Shipped(Decision):
    type = EventType.SHIPPED


class Requeued(Decision):
    type = EventType.REQUEUED


class Rejected(Reviewed):
    type = EventType.REJECTED


class Approved(Reviewed):
    type = EventType.APPROVED


class ChangesRequested(Reviewed):
    type = EventType.CHANGES_REQUESTED


class Unblocked(Payload):
    type = EventType.UNBLOCKED


class BlockExplained(Payload):
    type = EventType.BLOCK_EXPLAINED
    kind: str
    text: str


class Retried(Payload):
    type = EventType.RETRIED


class Buried(Payload):
    type = EventType.BURIED
