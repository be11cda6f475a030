"""Orders: which job a factory should take, which factories a job should be offered to, and why a grant was made."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from coordinator.scheduler.feasible import obstacles
from coordinator.scheduler.score import STARVATION_S, Score, score
from coordinator.scheduler.snapshot import FactoryView, Snapshot, age_s
from schemas.job import Job
from schemas.projections import Choice
from schemas.work import Priority

TIERS = {Priority.CRITICAL: 0, Priority.HIGH: 1, Priority.NORMAL: 2, Priority.LOW: 3}
CANDIDATES_KEPT_MAX = 8


def tier(job: Job, now: datetime) -> int:
    """0 is served first. Each half hour of waiting lifts one tier, never into critical."""
    own = TIERS[job.priority]
    return own if own == 0 else max(1, own - int(age_s(job, now) // STARVATION_S))


def ranked_jobs(jobs: Iterable[Job], factory: FactoryView, snapshot: Snapshot) -> list[Job]:
    """The jobs that this factory can be given, best first: tier, then those that starve, score, age, id.

    A job starves when it has waited twice the time after which waiting costs it nothing; then only age counts,
    since a steady stream of better fits could keep it back for ever.
    """

    def position(job: Job) -> tuple[int, bool, float, datetime, str, str]:
        starves = age_s(job, snapshot.now) >= 2 * STARVATION_S
        rank = 0.0 if starves else -score(job, factory, snapshot).total
        return tier(job, snapshot.now), not starves, rank, job.waiting_since, job.product_id, job.id

    return sorted((job for job in jobs if not obstacles(job, factory, snapshot)), key=position)


def ranked_factories(job: Job, snapshot: Snapshot) -> list[Score]:
    """The factories that can be given this job, best fit first; equal fits by id."""
    scores = [score(job, each, snapshot) for each in snapshot.factories if not obstacles(job, each, snapshot)]
    return sorted(scores, key=lambda one: (-one.total, one.factory_id))


def choice_of(job: Job, factory: FactoryView, snapshot: Snapshot) -> Choice:
    """The record of why this factory: it and its rivals, each with its terms. The rule has no chance in it."""
    chosen = score(job, factory, snapshot)
    rivals = [one for one in ranked_factories(job, snapshot) if one.factory_id != factory.id]
    kept = [chosen, *rivals[: CANDIDATES_KEPT_MAX - 1]]
    candidates = sorted(kept, key=lambda one: (-one.total, one.factory_id))
    return Choice(
        candidates=tuple(
            {"factoryId": one.factory_id, "score": round(one.total, 6), "terms": one.terms} for one in candidates
        ),
        terms=chosen.terms,
        weights_version=snapshot.weights_of(job.product_id).version,
        propensity=1.0,
    )
