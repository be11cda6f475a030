"""Why a job is where it is: each candidate with its terms, and for a job that waits one sentence to act on."""

from __future__ import annotations

import shlex
from typing import Any

from coordinator.scheduler.feasible import Obstacle, job_obstacles, maps, obstacles
from coordinator.scheduler.plan import tier
from coordinator.scheduler.score import score
from coordinator.scheduler.snapshot import FactoryView, Snapshot, age_s
from schemas.base import timestamp_text
from schemas.job import Job, Stage
from schemas.manifest import STRICT_SANDBOX

REASON_CHARS = 300


def explain(job: Job, snapshot: Snapshot) -> dict[str, Any]:
    """JSON-ready: `reason` (one sentence), `since`, `wouldStartIf`, and `candidates`, best first, with their terms."""
    against = {view.id: obstacles(job, view, snapshot) for view in snapshot.factories}
    reason, would_start_if = _reason(job, snapshot, against)
    return {
        "productId": job.product_id,
        "jobId": job.id,
        "stage": str(job.stage),
        "since": timestamp_text(job.stage_since),
        "waitingS": round(age_s(job, snapshot.now), 3),
        "priority": str(job.priority),
        "tier": tier(job, snapshot.now),
        "reason": reason,
        "wouldStartIf": would_start_if,
        "weightsVersion": snapshot.weights_of(job.product_id).version,
        "candidates": [] if job.is_finished else _candidates(job, snapshot, against),
    }


def _candidates(job: Job, snapshot: Snapshot, against: dict[str, list[Obstacle]]) -> list[dict[str, Any]]:
    rows = []
    for view in snapshot.factories:
        scored = score(job, view, snapshot)
        rows.append(
            {
                "factoryId": view.id,
                "feasible": not against[view.id],
                "obstacles": [{"filter": one.filter, "text": one.text} for one in against[view.id]],
                "score": round(scored.total, 6),
                "terms": {name: round(value, 6) for name, value in scored.terms.items()},
            }
        )
    return sorted(rows, key=lambda row: (not row["feasible"], -row["score"], row["factoryId"]))


def _reason(job: Job, snapshot: Snapshot, against: dict[str, list[Obstacle]]) -> tuple[str, list[str]]:
    match job.stage:
        case Stage.QUEUED:
            return _waiting(job, snapshot, against)
        case Stage.BLOCKED:
            assert job.blocked_reason is not None
            return f"It is blocked: {job.blocked_reason.text}.", ["what it waits for is settled"]
        case Stage.ASSIGNED | Stage.BUILDING:
            assert job.holder is not None
            stop = f"; a {job.stop.kind} was asked for" if job.stop else ""
            return f"It is held by {job.holder.factory_id}, term {job.lease_epoch}{stop}.", []
        case Stage.REVIEW:
            return f"It waits for {job.review - len(job.approvals)} more approval(s).", ["a person approves it"]
        case Stage.TESTING:
            return "It is done and waits for a person to ship it.", []
        case Stage.FAILED if job.not_before is not None:
            when = f"{job.not_before:%Y-%m-%d %H:%M:%SZ}"
            return f"It failed and is tried again at {when} ({job.retries.used} of {job.retries.max} retries used).", []
        case _:
            return _ended(job)


def _ended(job: Job) -> tuple[str, list[str]]:
    if job.stage is Stage.SHIPPED or job.result is None:
        return f"It is finished ({job.stage}).", []
    first = (job.result.summary or "").strip().partition("\n")[0]
    why = f": {first[:REASON_CHARS]}" if first else ""
    return f"It ended as {job.result.outcome}{why}.", [f"a person tries it again: gigafactory requeue {job.id}"]


def _waiting(job: Job, snapshot: Snapshot, against: dict[str, list[Obstacle]]) -> tuple[str, list[str]]:
    common = job_obstacles(job, snapshot)
    if common:
        return f"It waits: {common[0].text}.", [f"{one.filter} is free" for one in common]
    if not snapshot.factories:
        return "No factory is enrolled: start one.", ["a factory joins"]
    if any(not found for found in against.values()):
        return "A factory that fits is free: it should start within seconds.", []
    lasting = {name: [one for one in found if one.lasting] for name, found in against.items()}
    able = [view for view in snapshot.factories if not lasting[view.id]]
    if not able:
        return _nobody_can(job, snapshot.factories)
    passing = [f"{found.text}" for view in able for found in against[view.id][:1]]
    return f"Every factory that could run it is not free: {'; '.join(passing)}.", [
        f"{view.id} {_when(against[view.id][0])}" for view in able
    ]


def _when(obstacle: Obstacle) -> str:
    return {
        "seats": "has a free seat",
        "health": "comes back",
        "draining": "stops draining",
        "unfit": "can do such work again, which it tries by itself",
        "quota": "gets its quota back",
    }.get(obstacle.filter, "changes")


def _nobody_can(job: Job, factories: tuple[FactoryView, ...]) -> tuple[str, list[str]]:
    """Names what no factory at all has, most telling first."""
    here = [view for view in factories if job.product_id in view.products]
    if not here:
        return f"No factory is enrolled for product {job.product_id}.", [f"a factory is enrolled for {job.product_id}"]
    if all(job.engine not in view.engines for view in here):
        return f"No factory offers engine {job.engine}.", [f"a factory with engine {job.engine} joins"]
    lacking = [name for name in job.capabilities if all(name not in view.capabilities for view in here)]
    if lacking:
        names = ", ".join(lacking)
        joins = [f"a factory with {names} joins"]
        joins += (
            ["a factory is started with --sandbox strict, as `gigafactory up` may be"]
            if STRICT_SANDBOX in lacking
            else []
        )
        return f"No factory has the capability {names}.", joins
    if job.checkpoint is not None and job.checkpoint.local not in (None, *(view.id for view in here)):
        where = job.checkpoint.local
        return f"The work so far lies on {where} alone, which is not here.", [f"{where} comes back"]
    if job.cwd is not None and not any(maps(root, job.cwd) for view in here for root in view.workspaces):
        return f"No factory that could run it has a workspace for {job.cwd}.", [
            f"a factory maps {job.cwd}: start one, or `gigafactory up`, with --workspace {shlex.quote(job.cwd)}=FOLDER"
        ]
    wanted = ", ".join([str(job.engine), *job.capabilities])
    return f"No single factory has all of: {wanted}.", [f"one factory has all of: {wanted}"]
