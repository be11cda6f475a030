"""Documents that follow from a job's events: its runs, and the lease that a grant begins."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.ids import run_id
from schemas.projections import Choice, EventDoc, Insights, RunDoc

TERM_EVENTS = frozenset({"claimed", "started", "reported", "released", "reaped"})


def folded(run: RunDoc | None, event: EventDoc) -> RunDoc | None:
    """The run after one event of its term. An event folded in already changes nothing."""
    if run is not None and event.seq <= run.rev:
        return run
    data = event.data
    if event.type == "claimed":
        return RunDoc(
            id=run_id(event.job_id, event.lease_epoch),
            job_id=event.job_id,
            product_id=event.product_id,
            lease_epoch=event.lease_epoch,
            factory_id=data["factoryId"],
            session_id=data["sessionId"],
            engine=data["engine"],
            granted_at=event.at,
            choice=Choice.model_validate(data["choice"]),
            rev=event.seq,
        )
    assert run is not None, f"{event.id}: {event.type} before the claim of its term"
    if event.type == "started":
        return run.model_copy(update={"started_at": event.at, "rev": event.seq})
    ended = {
        "ended_at": event.at,
        "outcome": data["outcome"],
        "result": data["result"],
        "insights": Insights.model_validate(data.get("insights") or {}),
        "rev": event.seq,
    }
    return run.model_copy(update=ended)


def term_events(events: Iterable[EventDoc]) -> dict[int, list[EventDoc]]:
    """The events that a run is made of, by epoch, in order."""
    by_epoch: dict[int, list[EventDoc]] = {}
    for event in events:
        if event.type in TERM_EVENTS:
            by_epoch.setdefault(event.lease_epoch, []).append(event)
    return by_epoch
