"""A job's whole history: the events in its outbox, and those that are projected already."""

from __future__ import annotations

from coordinator.store.port import Store
from coordinator.store.queries import event_with_op, events_after, read_job
from schemas.ids import JobKey
from schemas.job import Job
from schemas.projections import EventDoc


async def find_event(store: Store, job: Job, op_id: str, above: int = 0) -> EventDoc | None:
    """The event above `above` with this op id. The outbox first: an event leaves it only once it is projected."""
    for event in reversed(job.outbox):
        if event.op_id == op_id and event.seq > above:
            return event
    return await event_with_op(store, job.id, op_id, above)


async def read_history(store: Store, key: JobKey, after: int = 0) -> list[EventDoc] | None:
    """The events of a job above `after`, in order. None: no such job."""
    stored = await read_job(store, key)
    if stored is None:
        return None
    events = {event.seq: event for event in stored.job.outbox}
    last = after
    while page := await events_after(store, key.job_id, last):
        events |= {event.seq: event for event in page}
        last = page[-1].seq
    # what was projected since the job was read may have gaps: it is had by the next look
    return [events[seq] for seq in sorted(events) if after < seq <= stored.job.seq]
