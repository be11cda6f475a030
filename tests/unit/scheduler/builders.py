"""Builders for the router: factories, jobs and the moment in which they meet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from coordinator.scheduler.snapshot import FactoryView, Snapshot
from schemas.job import Job
from schemas.work import Engine
from tests.support.fleet import PRODUCT
from tests.unit.domain.builders import new

NOW = datetime(2030, 1, 2, tzinfo=UTC)


def factory(factory_id: str = "f1", **fields: Any) -> FactoryView:
    wanted: dict[str, Any] = {
        "products": frozenset({PRODUCT}),
        "capabilities": frozenset(),
        "engines": frozenset({Engine.SHELL}),
        "seat_limit": 2,
    }
    return FactoryView(id=factory_id, **{**wanted, **fields})


def job(name: str = "job", waited_s: float = 0.0, **fields: Any) -> Job:
    """A queued job that has waited for so long; `fields` are the document's own."""
    return new(name).model_copy(update={"waiting_since": NOW - timedelta(seconds=waited_s), **fields})


def snapshot(*factories: FactoryView, **fields: Any) -> Snapshot:
    return Snapshot(now=NOW, factories=factories, **fields)
