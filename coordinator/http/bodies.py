"""The bodies of requests, as REST documents them: the bus's messages, without the fields that token and path give."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from coordinator.handlers import intake
from coordinator.http.auth import Principal
from schemas.base import Count, Schema, Timestamp
from schemas.errors import ErrorCode, FleetError
from schemas.ids import JobKey, Key, Name
from schemas.messages import (
    LOG_CHUNK_MAX,
    CheckpointRequest,
    ClaimRequest,
    EndedRequest,
    FromFactory,
    HeartbeatRequest,
    HelloRequest,
    LongText,
    NextRequest,
    SessionId,
    SessionNo,
)
from schemas.outcome import Outcome, Result
from schemas.projections import Insights
from schemas.work import Checkpoint, GitCommit, GitRef

LeaseEpoch = Annotated[int, Field(ge=1, le=2**53)]
Said = TypeVar("Said", bound=FromFactory)


class SubmitBody(Schema):
    """The JSON form of a submit; the manifest itself may as well be the whole body, as text/markdown."""

    manifest: str
    idempotency_key: Key | None = None


class BatchBody(Schema):
    items: Annotated[tuple[SubmitBody, ...], Field(min_length=1, max_length=intake.BATCH_MAX)]


class ActionBody(Schema):
    """`checkpoint`: where a requeued job goes on from. `leaseEpoch`: the term that a preempt ends."""

    reason: LongText | None = None
    checkpoint: Checkpoint | None = None
    lease_epoch: LeaseEpoch | None = None


class ReviewBody(Schema):
    verdict: Literal["approve", "request_changes", "reject"]
    reason: LongText | None = None


class ClaimBody(ClaimRequest):
    factory_id: Name | None = None  # type: ignore[assignment]  # the token says who asks


class HelloBody(HelloRequest):
    factory_id: Name | None = None  # type: ignore[assignment]


class EndedBody(EndedRequest):
    factory_id: Name | None = None  # type: ignore[assignment]


class HeartbeatBody(HeartbeatRequest):
    factory_id: Name | None = None  # type: ignore[assignment]


class TermBody(Schema):
    """A holder's word on its term; token and path say whose and of which job."""

    v: Literal[1] = 1
    factory_id: Name | None = None
    session_id: SessionId = "rest"
    ask_no: Count = 0
    lease_epoch: LeaseEpoch

    def term(self, principal: Principal, key: JobKey) -> dict[str, Any]:
        """What every message of a holder begins with. Raises forbidden where the body names another factory."""
        return {
            "factory_id": own_name(principal, self.factory_id),
            "session_id": self.session_id,
            "ask_no": self.ask_no,
            "product_id": key.product_id,
            "job_id": key.job_id,
            "lease_epoch": self.lease_epoch,
        }


class RenewBody(TermBody):
    pass


class CheckpointBody(Schema):
    """`number` rises from 1 within a term. `local`: there is no remote, the commit lies on this machine alone."""

    number: Annotated[int, Field(ge=0, le=2**53)] = 0
    ref: GitRef
    commit: GitCommit
    local: bool | Name | None = None
    at: Timestamp | None = None


class PatchBody(TermBody):
    """One of: `stage` (the work begins), `checkpoint` alone, or `result` (the report, with all else that it brings)."""

    stage: Literal["building"] | None = None
    checkpoint: CheckpointBody | None = None
    result: Result | None = None
    insights: Insights = Insights()
    resets_at: Timestamp | None = None
    session_no: SessionNo = None
    next: NextRequest | None = None

    def saved(self, term: dict[str, Any]) -> CheckpointRequest:
        assert self.checkpoint is not None
        one = self.checkpoint
        return CheckpointRequest(**term, number=one.number, ref=one.ref, commit=one.commit, local=bool(one.local))


class ReleaseBody(TermBody):
    outcome: Literal[Outcome.RELEASED, Outcome.PREEMPTED, Outcome.CANCELLED] = Outcome.RELEASED
    reason: LongText | None = None
    checkpoint: CheckpointBody | None = None


class LogBody(Schema):
    """`offset`: the bytes of the term's output, in UTF-8, that came before. `last`: whether the output ends with it;
    left out, nobody expects an end.
    """

    v: Literal[1] = 1
    session_id: SessionId = "rest"
    lease_epoch: LeaseEpoch
    offset: Count
    text: Annotated[str, Field(max_length=LOG_CHUNK_MAX)]
    last: bool | None = None


def own_name(principal: Principal, named: str | None) -> str:
    """The token's factory. Raises forbidden where another is named."""
    if named not in (None, principal.id):
        raise FleetError(ErrorCode.FORBIDDEN, f"the token of {principal.id} cannot speak for {named}")
    return principal.id


def spoken_by(principal: Principal, said: Said) -> Said:
    """The message with the token's factory as its sender."""
    return said.model_copy(update={"factory_id": own_name(principal, said.factory_id)})
