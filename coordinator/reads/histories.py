"""What happened to a job, and why it is where it is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from coordinator.context import Context
from coordinator.reads.jobs import read_found
from coordinator.scheduler.explain import explain
from coordinator.store.job_history import read_history
from schemas.errors import ErrorCode, FleetError
from schemas.ids import JobKey
from schemas.projections import EventDoc

HISTORY_SHOWN = 20


async def read_events(ctx: Context, key: JobKey, after: int) -> list[EventDoc]:
    """The events above `after`, in order, without a gap. Raises not_found."""
    events = await read_history(ctx.store, key, after)
    if events is None:
        raise FleetError(ErrorCode.NOT_FOUND, f"there is no job {key.job_id} in product {key.product_id}")
    return events


async def read_explanation(ctx: Context, key: JobKey, products: Collection[str] | None) -> dict[str, Any]:
    """JSON-ready: see `scheduler.explain`, with the latest events. Candidates are the factories of these products."""
    job = await read_found(ctx, key)
    events = await read_events(ctx, key, max(0, job.seq - HISTORY_SHOWN))
    snapshot = ctx.snapshot()
    if products is not None:
        seen = tuple(view for view in snapshot.factories if not view.products.isdisjoint(products))
        snapshot = replace(snapshot, factories=seen)
    return {**explain(job, snapshot), "history": events}
