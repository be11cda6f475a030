"""After a commit: event, run and lease documents, and everybody in this process who wants to know.

Whatever is done here can be lost or done twice. The documents are functions of the job's events; a job whose
outbox is not known to be projected keeps it, and the sweeper makes up for a coordinator that died in between.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

from coordinator.domain.lease import granted
from coordinator.domain.projection import folded, term_events
from coordinator.store.port import EVENTS, LEASES, RUNS, Derived, Store, StoreError
from coordinator.store.queries import read_run
from schemas.events import EventType
from schemas.ids import JobKey, run_id
from schemas.job import Job
from schemas.projections import EventDoc

log = logging.getLogger(__name__)

KNOWN_MAX = 10_000

CommitListener = Callable[[Job, tuple[EventDoc, ...]], None]


async def derive(store: Store, job: Job, lease_ttl_s: float) -> list[Derived]:
    """What the job's outbox says there should be. Runs are folded onto what is there already."""
    derived = [Derived(EVENTS, event.to_doc()) for event in job.outbox]
    for epoch, events in term_events(job.outbox).items():
        known = None if events[0].type == EventType.CLAIMED else await read_run(store, job.id, run_id(job.id, epoch))
        run = known
        for event in events:
            run = folded(run, event)
        if run is not None and run is not known:
            derived.append(Derived(RUNS, run.to_doc(), rev=run.rev))
    if job.held and any(
        event.type == EventType.CLAIMED and event.lease_epoch == job.lease_epoch for event in job.outbox
    ):
        derived.append(Derived(LEASES, granted(job, lease_ttl_s).to_doc()))
    return derived


class Projector:
    def __init__(self, store: Store, lease_ttl_s: float) -> None:
        self._store = store
        self._lease_ttl_s = lease_ttl_s
        self._known: OrderedDict[JobKey, int] = OrderedDict()
        self._listeners: list[CommitListener] = []

    def listen(self, listener: CommitListener) -> None:
        """`listener(job, new events)` after each commit of this process. It must not await."""
        self._listeners.append(listener)

    async def derive(self, job: Job) -> list[Derived]:
        return await derive(self._store, job, self._lease_ttl_s)

    async def project(self, job: Job) -> bool:
        """Whether all of the job's outbox is projected now."""
        try:
            await self._store.project(await self.derive(job))
        except StoreError as error:
            log.warning("the projection of %s waits for the sweeper: %s", job.id, error)
            return False
        self.known(job)
        return True

    def known(self, job: Job) -> None:
        self._known[job.key] = max(job.seq, self._known.pop(job.key, 0))
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def trimmed(self, job: Job) -> Job:
        """Without the events that are known to be projected."""
        seq = self._known.get(job.key, 0)
        outbox = tuple(event for event in job.outbox if event.seq > seq)
        return job.model_copy(update={"outbox": outbox, "pending_events": len(outbox)})

    def after_commit(self, job: Job, events: tuple[EventDoc, ...]) -> None:
        for listener in self._listeners:
            try:
                listener(job, events)
            except Exception:
                log.exception("a listener failed on %s", job.id)
