"""Shapes that several handlers answer with."""

from __future__ import annotations

from datetime import datetime

from coordinator.context import Context
from coordinator.domain.ops import Rejected
from coordinator.transact import Applied
from schemas.errors import ErrorCode, FleetError
from schemas.job import Job, Stage
from schemas.messages import StopOrder, TermTimes

CODES = {
    "not_found": ErrorCode.NOT_FOUND,
    "invalid_request": ErrorCode.INVALID_REQUEST,
    "fenced": ErrorCode.FENCED,
    "illegal_transition": ErrorCode.ILLEGAL_TRANSITION,
    "conflict": ErrorCode.CONFLICT,
    "lock_busy": ErrorCode.CONFLICT,
    "budget_paused": ErrorCode.BUDGET_PAUSED,
}


def check_applied(outcome: Applied | Rejected) -> Applied:
    """Raises a refusal as the error that it is answered with."""
    if isinstance(outcome, Rejected):
        raise FleetError(CODES[outcome.reason], outcome.message, **outcome.detail)
    return outcome


def term_times(ctx: Context, job: Job, expires_at: datetime) -> TermTimes:
    now = ctx.clock.now()
    lease_left = max(0.0, (expires_at - now).total_seconds())
    start_left = 0.0
    if job.stage is Stage.ASSIGNED:
        start_left = ctx.timers.grant_start_s - (now - job.stage_since).total_seconds()
    return TermTimes(
        lease_left_s=lease_left,
        renew_every_s=ctx.timers.rest_renew_s,
        start_within_s=max(0.0, min(start_left, lease_left)),
        now=now,
    )


def stop_order(ctx: Context, job: Job) -> StopOrder | None:
    if job.stop is None:
        return None
    left = (job.stop.deadline - ctx.clock.now()).total_seconds()
    return StopOrder(kind=job.stop.kind, by_s=max(0.0, left), reason=job.stop.reason)
