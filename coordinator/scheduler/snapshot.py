"""What the router looks at: factories and jobs as known at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from schemas.factory import FactoryDoc, Health
from schemas.job import Job
from schemas.work import Engine


@dataclass(frozen=True)
class Weights:
    """Per product, versioned; the defaults are the heuristic's."""

    version: str = "default-1"
    capability_fit: float = 1.0
    affinity: float = 0.5
    load: float = 1.0
    cost_fit: float = 0.75
    health: float = 1.0
    starvation: float = 1.5


DEFAULT_WEIGHTS = Weights()


@dataclass(frozen=True)
class FactoryView:
    """A factory as the router sees it: `seats_used` counts what it reported and what it was granted since."""

    id: str
    products: frozenset[str]
    capabilities: frozenset[str]
    engines: frozenset[Engine]
    workspaces: tuple[str, ...] = ()
    seat_limit: int = 1
    seats_used: int = 0
    health: Health = Health.HEALTHY
    draining: bool = False
    unfit: str | None = None
    gated: Mapping[Engine, datetime] = field(default_factory=dict)
    last_repos: frozenset[str] = frozenset()

    @property
    def seats_free(self) -> int:
        return max(0, self.seat_limit - self.seats_used)

    @classmethod
    def of(
        cls,
        doc: FactoryDoc,
        *,
        seats_used: int = 0,
        health: Health | None = None,
        last_repos: frozenset[str] = frozenset(),
    ) -> FactoryView:
        return cls(
            id=doc.id,
            products=frozenset(doc.products),
            capabilities=frozenset(doc.capabilities),
            engines=frozenset(doc.engines),
            workspaces=doc.workspaces,
            seat_limit=doc.seat_limit,
            seats_used=max(seats_used, doc.seats_used),
            health=health or doc.health,
            draining=doc.draining,
            unfit=doc.unfit,
            gated=doc.gated,
            last_repos=last_repos,
        )


@dataclass(frozen=True)
class Snapshot:
    """One moment: the living factories, the locks that are taken with their holders, the products that are paused."""

    now: datetime
    factories: tuple[FactoryView, ...]
    locks: Mapping[tuple[str, str], str] = field(default_factory=dict)
    closed_budgets: frozenset[str] = frozenset()
    weights: Mapping[str, Weights] = field(default_factory=dict)

    def weights_of(self, product_id: str) -> Weights:
        return self.weights.get(product_id, DEFAULT_WEIGHTS)

    def lock_holder(self, job: Job) -> str | None:
        return None if job.lock is None else self.locks.get((job.product_id, job.lock))


def age_s(job: Job, now: datetime) -> float:
    return max(0.0, (now - job.waiting_since).total_seconds())
