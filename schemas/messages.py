"""Every message between factory and coordinator; bus and REST carry the same ones. `v` is the version."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.base import Count, Schema, Timestamp
from schemas.factory import Health, Transport
from schemas.ids import Id, Name, RequestId
from schemas.outcome import Outcome, Result
from schemas.projections import Insights
from schemas.work import Checkpoint, Engine, GitCommit, GitRef, WorkOrder

VERSION = 1
SEATS_MAX = 256
ENDED_MAX = 100
SUMMARY_LENGTH_MAX = 4000
LOG_CHUNK_MAX = 64 * 1024
UNFIT_LENGTH_MAX = 500

Seats = Annotated[int, Field(ge=0, le=SEATS_MAX)]
SessionId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
SessionNo = Count | None  # None: the number of the session that `sessionId` names
ShortText = Annotated[str, Field(max_length=200)]
LongText = Annotated[str, Field(max_length=SUMMARY_LENGTH_MAX)]


class WireMessage(Schema):
    v: Literal[1] = 1


class TermTimes(Schema):
    """What a holder may rely on: seconds from when it asked, and the coordinator's wall clock."""

    lease_left_s: float
    renew_every_s: float
    start_within_s: float
    now: Timestamp


class StopOrder(Schema):
    kind: Literal["cancel", "preempt"]
    by_s: float  # seconds until the deadline
    reason: str | None = None


class TermRef(Schema):
    """A reference to held work is always these three."""

    product_id: Name
    job_id: Id
    lease_epoch: Annotated[int, Field(ge=1, le=2**53)]


class FromFactory(WireMessage):
    factory_id: Name
    session_id: SessionId = "rest"
    ask_no: Count = 0


class FromHolder(FromFactory, TermRef):
    """A holder's message about its term."""


class HelloRequest(FromFactory):
    session_no: Annotated[int, Field(ge=1, le=2**53)] | None = None  # None: the counter's file is lost
    takeover: bool = False
    capabilities: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    engines: tuple[Engine, ...] = ()
    workspaces: Annotated[tuple[Annotated[str, Field(max_length=1000)], ...], Field(max_length=64)] = ()
    seat_limit: Annotated[int, Field(ge=1, le=SEATS_MAX)] = 1
    transport: Transport = Transport.REST
    version: ShortText = ""
    os: ShortText = ""
    free_disk_bytes: Count | None = None


class HelloAnswer(WireMessage):
    """`opened` false: nothing was opened, `sessionNo` is the number to say hello with."""

    opened: bool = True
    session_no: int
    products: tuple[str, ...]
    capabilities: tuple[str, ...] | None = None  # of those said, the ones that the enrolment entitles to
    heartbeat_every_s: float
    lease_ttl_s: float
    trust_margin_s: float
    warnings: tuple[str, ...] = ()
    now: Timestamp


class ClaimRequest(FromFactory):
    """`max` seats are asked for; `waitS` holds a REST call open until there is something."""

    session_no: SessionNo = None
    request_id: RequestId
    max: Annotated[int, Field(ge=1, le=SEATS_MAX)] = 1
    wait_s: Annotated[float, Field(ge=0, le=60)] = 0
    product_id: Name | None = None
    job_id: Id | None = None
    capabilities: Annotated[tuple[Name, ...], Field(max_length=64)] | None = None
    engines: tuple[Engine, ...] | None = None


class Grant(TermRef, WorkOrder):
    """All that is needed to start, and the permission to: for `startWithinS` from when it was asked for.

    `retries_used`: attempts that failed; more than at the checkpoint mean that the one which saved it did.
    `publish_only`: the work of the checkpoint is done and verified, and only its branch is wanted.
    """

    request_id: str
    run_id: str
    attempt: int
    retries_used: int = 0
    manifest_snapshot: str
    body_md: str
    checkpoint: Checkpoint | None = None
    publish_only: bool = False
    started: bool = False
    stop: StopOrder | None = None
    term: TermTimes


class ClaimAnswer(WireMessage):
    grants: tuple[Grant, ...] = ()
    reason: str | None = None  # why there is nothing


class StartRequest(FromHolder):
    pass


class RenewRequest(FromHolder):
    pass


class TermAnswer(WireMessage):
    """The answer to start, renew and checkpoint."""

    stage: str
    stop: StopOrder | None = None
    term: TermTimes


class CheckpointRequest(FromHolder):
    number: Annotated[int, Field(ge=1, le=2**53)]
    ref: GitRef
    commit: GitCommit
    local: bool = False


class LogChunk(WireMessage, TermRef):
    """Output of one term: `offset` in bytes from its beginning, over bus and REST alike."""

    session_id: SessionId = "rest"
    offset: Count
    text: Annotated[str, Field(max_length=LOG_CHUNK_MAX)]
    last: bool | None = None  # whether the log ends with it; None: its sender does not say where logs end


class LogHeard(WireMessage):
    """The acknowledgement of a chunk: how many bytes of the log have been heard."""

    heard: Count


class NextRequest(Schema):
    request_id: RequestId
    max: Annotated[int, Field(ge=1, le=SEATS_MAX)] = 1


class ReportRequest(FromHolder):
    result: Result
    insights: Insights = Insights()
    checkpoint: Checkpoint | None = None
    resets_at: Timestamp | None = None  # with quota_exhausted: when the credential is good again
    session_no: SessionNo = None
    next: NextRequest | None = None


class ReleaseRequest(FromHolder):
    outcome: Literal[Outcome.RELEASED, Outcome.PREEMPTED, Outcome.CANCELLED] = Outcome.RELEASED
    reason: LongText | None = None
    checkpoint: Checkpoint | None = None


class EndAnswer(WireMessage):
    """How a report or release was taken; `repeated` when it was known already."""

    stage: str
    repeated: bool = False


class ReportAnswer(WireMessage):
    """Two commits, two independent answers: each is an answer or an error document."""

    report: EndAnswer | None = None
    report_error: dict[str, Any] | None = None
    next: ClaimAnswer | None = None
    next_error: dict[str, Any] | None = None


class Holding(TermRef):
    """`phase`: what is being done in the term, in a few words."""

    progress_at: Timestamp | None = None
    phase: ShortText | None = None


class HeartbeatRequest(FromFactory):
    session_no: SessionNo = None
    holding: Annotated[tuple[Holding, ...], Field(max_length=SEATS_MAX)] = ()
    pending: Annotated[tuple[RequestId, ...], Field(max_length=SEATS_MAX)] = ()
    seat_limit: Annotated[int, Field(ge=1, le=SEATS_MAX)] = 1
    seats_used: Seats = 0
    load: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    health: Health = Health.HEALTHY
    transport: Transport = Transport.REST
    draining: bool = False
    unfit: Annotated[str, Field(max_length=UNFIT_LENGTH_MAX)] | None = None  # why no work is taken for now
    engines: tuple[Engine, ...] | None = None
    free_disk_bytes: Count | None = None


class HeldTerm(TermRef):
    """What became of one term that a heartbeat named: still granted, and for how long, or not."""

    granted: bool
    stop: StopOrder | None = None
    term: TermTimes | None = None


class HeartbeatAnswer(WireMessage):
    terms: tuple[HeldTerm, ...] = ()
    heartbeat_every_s: float
    now: Timestamp


class Offer(WireMessage):
    """A hint that a job can be claimed. It carries no authority."""

    product_id: str
    job_id: str
    lease_epoch: int
    offer_no: int
    round: int
    invited: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    engine: Engine
    priority: str
    cwd: str | None = None
    expires_at: Timestamp
    now: Timestamp


class Control(WireMessage):
    """An order to one factory. `drain` names no term."""

    order: Literal["cancel", "preempt", "drain"]
    product_id: str | None = None
    job_id: str | None = None
    lease_epoch: int | None = None
    by_s: float | None = None
    reason: str | None = None


class EndedRequest(FromFactory):
    """Of these jobs, which have been over for so many seconds?"""

    job_ids: Annotated[tuple[Id, ...], Field(min_length=1, max_length=ENDED_MAX)]
    for_s: Annotated[float, Field(ge=0, le=10 * 366 * 86400, allow_inf_nan=False)]


class EndedAnswer(WireMessage):
    job_ids: tuple[Id, ...]


class RosterNote(WireMessage):
    """A heartbeat as one coordinator heard it, for the others."""

    factory: dict[str, Any]
    heard_at: Timestamp
    holding: tuple[Holding, ...] = ()
