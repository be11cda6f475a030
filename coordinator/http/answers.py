"""The answers of routes, as REST documents them: stored documents without the coordinator's private fields."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from schemas.base import Schema
from schemas.factory import FactoryDoc
from schemas.job import Job
from schemas.projections import EventDoc, RunDoc


class JobRow(Job):
    """A job without its manifest and what is for the coordinator alone."""

    manifest_snapshot: str = Field(default="", exclude=True)
    body_md: str | None = Field(default=None, exclude=True)
    manifest_sha256: str = Field(default="", exclude=True)
    sort_key: str = Field(default="", exclude=True)
    outbox: tuple[EventDoc, ...] = Field(default=(), exclude=True)
    pending_events: int = Field(default=0, exclude=True)

    @classmethod
    def of(cls, job: Job) -> JobRow:
        return cls.model_construct(**{name: getattr(job, name) for name in Job.model_fields})


class JobDetail(JobRow):
    """With its manifest: front matter and body together are byte for byte what was submitted."""

    manifest_snapshot: str
    body_md: str | None

    @classmethod
    def of_job(cls, job: Job, body: str) -> JobDetail:
        fields = {name: getattr(job, name) for name in Job.model_fields}
        return cls.model_construct(**{**fields, "body_md": body})


class JobAnswer(Schema):
    """`phase`: what its holder is doing, as it said last."""

    job: JobDetail
    phase: str | None = None


class JobsPage(Schema):
    """`nextCursor` is null on the last page; a page before it may be short, or empty, where filters leave little."""

    jobs: tuple[JobRow, ...]
    next_cursor: str | None = None


class SubmitAnswer(Schema):
    """`repeated`: the job was there already, submitted under the same key."""

    job: JobRow
    repeated: bool
    warnings: tuple[str, ...] = ()


class ErrorDoc(Schema):
    code: str
    message: str
    detail: dict[str, Any] = Field(default_factory=dict)


class BatchRefusal(Schema):
    """Why this item was not taken; the others may have been."""

    error: ErrorDoc


class BatchAnswer(Schema):
    items: tuple[SubmitAnswer | BatchRefusal, ...]


class ActionAnswer(Schema):
    """`repeated`: the same key asked for it before; `event` is what it did then."""

    job: JobRow
    event: EventDoc
    repeated: bool


class EventsPage(Schema):
    events: tuple[EventDoc, ...]
    next_cursor: int | None = None


class RunsPage(Schema):
    runs: tuple[RunDoc, ...]
    next_cursor: int | None = None


class ObstacleRow(Schema):
    filter: str
    text: str


class CandidateRow(Schema):
    factory_id: str
    feasible: bool
    obstacles: tuple[ObstacleRow, ...]
    score: float
    terms: dict[str, float]


class Explanation(Schema):
    """`reason`: one sentence that a person can act on. `candidates`: best first, each with its terms."""

    product_id: str
    job_id: str
    stage: str
    since: str
    waiting_s: float
    priority: str
    tier: int
    reason: str
    would_start_if: tuple[str, ...]
    weights_version: str
    candidates: tuple[CandidateRow, ...]
    history: tuple[EventDoc, ...]


class LogPage(Schema):
    """`epochs`: the terms that printed anything. Ask on from `nextOffset`; it equals `offset` at the end. `complete`
    false: more of this log is still on its factory's disk, or lost with it.
    """

    lease_epoch: int
    epochs: tuple[int, ...]
    offset: int
    text: str
    next_offset: int
    complete: bool = True


class HeldJob(Schema):
    product_id: str
    job_id: str


class FactoryRow(FactoryDoc):
    """`health` as known here and now; `products` and `holding` as far as the asker may know of them."""

    token_hashes: tuple[str, ...] = Field(default=(), exclude=True)
    bus_key: str | None = Field(default=None, exclude=True)
    holding: tuple[HeldJob, ...] = ()


class FactoriesAnswer(Schema):
    factories: tuple[FactoryRow, ...]


class Alive(Schema):
    status: str


class Readiness(Schema):
    """`status`: ok, degraded (no bus: everything goes over REST), or unavailable (no store)."""

    status: str
    store: str
    bus: str
