"""Documents derived from the job: an event's, a run's and a lease's. Each can be had again from the job."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from schemas.base import Count, Money, Schema, Timestamp


class EventDoc(Schema):
    """One transition, told. `seq` is gapless from 1 within a job."""

    id: str
    job_id: str
    product_id: str
    seq: int
    type: str
    at: Timestamp
    actor: str
    op_id: str
    from_stage: str | None = Field(default=None, alias="from")
    to_stage: str = Field(alias="to")
    lease_epoch: int
    data: dict[str, Any] = {}


class LeaseStatus(StrEnum):
    ACTIVE = "active"
    CLOSED = "closed"


class LeaseDoc(Schema):
    """How long one term lives without renewal. `closed` is final."""

    id: str
    job_id: str
    product_id: str
    holder_factory_id: str
    session_id: str
    lease_epoch: int
    acquired_at: Timestamp
    expires_at: Timestamp
    status: LeaseStatus = LeaseStatus.ACTIVE


class Insights(Schema):
    """`log_bytes`: how long the term's log is, None where its holder does not say."""

    tokens_in: Count = 0
    tokens_out: Count = 0
    cost_usd: Money = 0.0
    diff: dict[str, Count] = {}
    log_bytes: Count | None = None


class Choice(Schema):
    """Why this factory got this job; learning from outcomes needs it and it cannot be had later."""

    candidates: tuple[dict[str, Any], ...] = ()
    terms: dict[str, float] = {}
    weights_version: str
    propensity: float = 1.0


class RunDoc(Schema):
    """The record of one term, folded from the job's events of that epoch; `rev` is the last one folded in."""

    id: str
    job_id: str
    product_id: str
    lease_epoch: int
    factory_id: str
    session_id: str
    engine: str
    granted_at: Timestamp
    started_at: Timestamp | None = None
    ended_at: Timestamp | None = None
    outcome: str | None = None
    result: dict[str, Any] | None = None
    insights: Insights | None = None
    choice: Choice | None = None
    rev: int
