"""Hard filters, each with its reason: a factory that one of them names is never given the job."""

from __future__ import annotations

from typing import NamedTuple

from coordinator.scheduler.snapshot import FactoryView, Snapshot
from schemas.factory import Health
from schemas.job import Job
from schemas.work import path_within


class Obstacle(NamedTuple):
    """`lasting`: it concerns what the factory is, not what it happens to be doing."""

    filter: str
    text: str
    lasting: bool


def maps(root: str, cwd: str) -> bool:
    return path_within(root, cwd) is not None


def obstacles(job: Job, factory: FactoryView, snapshot: Snapshot) -> list[Obstacle]:
    """Every reason why this factory cannot be given this job now; empty when it can."""
    found: list[Obstacle] = []

    def blocked_by(name: str, text: str, *, lasting: bool) -> None:
        found.append(Obstacle(name, text, lasting))

    if job.product_id not in factory.products:
        blocked_by("enrolment", f"{factory.id} is not enrolled for product {job.product_id}", lasting=True)
    lacking = sorted(set(job.capabilities) - factory.capabilities)
    if lacking:
        blocked_by("capability", f"{factory.id} lacks {', '.join(lacking)}", lasting=True)
    if job.engine not in factory.engines:
        blocked_by("engine", f"{factory.id} has no engine {job.engine}", lasting=True)
    elif (until := factory.gated.get(job.engine)) is not None and until > snapshot.now:
        blocked_by(
            "quota",
            f"{factory.id}'s quota for {job.engine} is used up until {until:%H:%M:%SZ}",
            lasting=False,
        )
    if job.cwd is not None and not any(maps(root, job.cwd) for root in factory.workspaces):
        blocked_by("workspace", f"{factory.id} has no workspace for {job.cwd}", lasting=True)
    if job.checkpoint is not None and job.checkpoint.local not in (None, factory.id):
        blocked_by("checkpoint", f"the work so far lies on {job.checkpoint.local} alone", lasting=True)
    for avoided in job.avoid:
        if avoided.factory_id == factory.id:
            blocked_by("avoid", f"{factory.id} could not run it: {avoided.reason}", lasting=True)
    if factory.health is Health.DOWN:
        blocked_by("health", f"{factory.id} is down", lasting=False)
    if factory.draining:
        blocked_by("draining", f"{factory.id} is draining", lasting=False)
    if factory.unfit is not None:
        blocked_by("unfit", f"{factory.id} takes no work for now: {factory.unfit}", lasting=False)
    if factory.seats_free == 0:
        blocked_by("seats", f"all {factory.seat_limit} seats of {factory.id} are taken", lasting=False)
    return found + job_obstacles(job, snapshot)


def job_obstacles(job: Job, snapshot: Snapshot) -> list[Obstacle]:
    """What holds the job back wherever it would run."""
    found = []
    holder = snapshot.lock_holder(job)
    if holder is not None and holder != job.id:
        found.append(Obstacle("lock", f"lock '{job.lock}' is held by {holder}", lasting=False))
    if job.product_id in snapshot.closed_budgets:
        found.append(Obstacle("budget", f"product {job.product_id} starts nothing new", lasting=False))
    return found
