"""How a term ends, and whose fault it is."""

from __future__ import annotations

from enum import StrEnum

from schemas.base import Schema


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
    UNRUNNABLE = "unrunnable"  # no machine could: the manifest names what is not there, or means nothing
    UNPUBLISHED = "unpublished"  # done and verified; the server does not take the branch
    MACHINE_FAILED = "machine_failed"  # this machine could not: another one is tried


CHARGED = frozenset({Outcome.VERIFY_FAILED, Outcome.ENGINE_FAILED, Outcome.TIMEOUT, Outcome.STALLED})
"""Outcomes that use up one of the job's retries."""


class Avoided(Schema):
    """A factory that could not run the job, and what it said."""

    factory_id: str
    reason: str


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


class Unpublished(Schema):
    """Work that is done, saved and verified, and whose branch no server has taken yet."""

    commit: str | None
    verify: tuple[VerifyEvidence, ...] = ()


class Spend(Schema):
    usd: float = 0.0
    tokens: int = 0
