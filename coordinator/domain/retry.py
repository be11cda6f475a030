"""When a job that failed is tried again, and when it has been lost too often."""

from __future__ import annotations

from datetime import datetime, timedelta

from schemas.job import Job
from schemas.outcome import CHARGED, Outcome
from schemas.work import Retries

LOST_IN_A_ROW_MAX = 5
BACKOFF_MAX_S = 3600.0
JITTER_SHARE = 0.2


def charged(retries: Retries, outcome: Outcome) -> Retries:
    if outcome not in CHARGED:
        return retries
    return retries.model_copy(update={"used": retries.used + 1, "failed": retries.failed + 1})


def retry_at(retries_before: Retries, outcome: Outcome, now: datetime, jitter: float) -> datetime | None:
    """When the next try is due: doubling from `backoffS`, plus up to a fifth. None: there is none."""
    if outcome not in CHARGED or retries_before.used >= retries_before.max:
        return None
    longest_s = max(BACKOFF_MAX_S, retries_before.backoff_s)
    wait_s = min(retries_before.backoff_s * 2**retries_before.used, longest_s)
    return now + timedelta(seconds=wait_s * (1 + JITTER_SHARE * jitter))


def exhausted(job: Job) -> bool:
    """Failed in a way that was charged, with nothing left: for the dead letters, not final as it stands."""
    return job.result is not None and job.result.outcome in CHARGED and job.not_before is None
