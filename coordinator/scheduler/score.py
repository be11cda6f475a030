"""How well a factory fits a job: a weighted sum of terms, each in [0, 1], kept apart so that it can be explained."""

from __future__ import annotations

from typing import NamedTuple

from coordinator.scheduler.snapshot import FactoryView, Snapshot, age_s
from schemas.factory import Health
from schemas.job import Job

STARVATION_S = 30 * 60.0
HEALTH_SCORE = {Health.HEALTHY: 1.0, Health.DEGRADED: 0.5, Health.DOWN: 0.0}


class Score(NamedTuple):
    factory_id: str
    total: float
    terms: dict[str, float]  # before weighting


def capability_fit(job: Job, factory: FactoryView) -> float:
    """1 for a factory that owns just what is needed, so that a rare machine is not spent on common work."""
    return (1 + len(set(job.capabilities))) / (1 + len(factory.capabilities))


def affinity(job: Job, factory: FactoryView) -> float:
    holds_checkpoint = job.checkpoint is not None and factory.id in (
        job.checkpoint.local,
        job.last_factory_id,
    )
    return 1.0 if holds_checkpoint or (job.repo is not None and job.repo in factory.last_repos) else 0.0


def cost_fit(job: Job) -> float:
    """The share of the job's own budget that is left; 1 without one."""
    if not job.budget.usd:
        return 1.0
    return min(1.0, max(0.0, 1 - job.spend.usd / job.budget.usd))


def starvation_penalty(waiting_s: float) -> float:
    return min(1.0, max(0.0, 1 - waiting_s / STARVATION_S))


def score(job: Job, factory: FactoryView, snapshot: Snapshot) -> Score:
    weights = snapshot.weights_of(job.product_id)
    load = min(1.0, factory.seats_used / factory.seat_limit)
    terms = {
        "capabilityFit": capability_fit(job, factory),
        "affinity": affinity(job, factory),
        "load": 1 / (1 + load),
        "costFit": cost_fit(job),
        "health": HEALTH_SCORE[factory.health],
        "starvationPenalty": starvation_penalty(age_s(job, snapshot.now)),
    }
    total = (
        weights.capability_fit * terms["capabilityFit"]
        + weights.affinity * terms["affinity"]
        + weights.load * terms["load"]
        + weights.cost_fit * terms["costFit"]
        + weights.health * terms["health"]
        - weights.starvation * terms["starvationPenalty"]
    )
    return Score(factory.id, total, terms)
