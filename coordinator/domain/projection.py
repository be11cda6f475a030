"""Documents that follow from a job's events: its runs, and the lease that a grant begins."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.events import TERM_ENDS, Claimed, EventType, TermEnded
from schemas.ids import run_id
from schemas.projections import EventDoc, RunDoc

TERM_EVENTS = TERM_ENDS | {EventType.CLAIMED, EventType.STARTED}


def folded(run: RunDoc | None, event: EventDoc) -> RunDoc | None:
    """The run after one event of its term. An event folded in already changes nothing."""
    if run is not None and event.seq <= run.rev:
        return run
    if event.type == EventType.CLAIMED:
        claimed = Claimed.of(event)
        return RunDoc(
            id=run_id(event.job_id, event.lease_epoch),
            job_id=event.job_id,
            product_id=event.product_id,
            lease_epoch=event.lease_epoch,
            factory_id=claimed.factory_id,
            session_id=claimed.session_id,
            engine=claimed.engine,
            granted_at=event.at,
            choice=claimed.choice,
            rev=event.seq,
        )
    assert run is not None, f"{event.id}: {event.type} before the claim of its term"
    if event.type == EventType.STARTED:
        return run.model_copy(update={"started_at": event.at, "rev": event.seq})
    ended = TermEnded.of(event)
    return run.model_copy(
        update={
            "ended_at": event.at,
            "outcome": ended.outcome,
            "result": ended.result.to_doc(),
            "insights": ended.insights,
            "rev": event.seq,
        }
    )


def term_events(events: Iterable[EventDoc]) -> dict[int, list[EventDoc]]:
    """The events that a run is made of, by epoch, in order."""
    by_epoch: dict[int, list[EventDoc]] = {}
    for event in events:
        if event.type in TERM_EVENTS:
            by_epoch.setdefault(event.lease_epoch, []).append(event)
    return by_epoch
