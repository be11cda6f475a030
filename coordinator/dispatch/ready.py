"""The jobs that can be claimed, the jobs that are held, the dependencies that are waited for: in memory, rebuilt from
the store, never trusted over it.

A note of an older state of a job than the one known changes nothing. A claim that the store refuses corrects it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from coordinator.store.port import JOBS, Store
from coordinator.store.queries import all_partitions, jobs_in
from schemas.ids import JobKey
from schemas.job import HELD, Job, Stage
from schemas.projections import EventDoc

INDEXED_STAGES = (Stage.QUEUED, Stage.BLOCKED, Stage.ASSIGNED, Stage.BUILDING)


class QueuedListener(Protocol):
    def __call__(self, job: Job, *, ours: bool) -> None: ...


class ReadyIndex:
    def __init__(self) -> None:
        self._jobs: dict[JobKey, Job] = {}
        self._by_stage: dict[Stage, dict[JobKey, Job]] = {stage: {} for stage in INDEXED_STAGES}
        self._held: dict[str, dict[JobKey, Job]] = {}
        self._locks: dict[tuple[str, str], str] = {}
        self._dependents: dict[JobKey, set[JobKey]] = {}
        self._touched: set[JobKey] | None = None
        self._refreshing = asyncio.Lock()
        self._products: set[str] = set()
        self._listed = False
        self._queued: list[QueuedListener] = []
        self._changed: list[Callable[[], None]] = []

    def listen_queued(self, listener: QueuedListener) -> None:
        """`listener(job, ours=…)` hears of each job that became claimable; `ours`: by a commit of this process."""
        self._queued.append(listener)

    def listen_changed(self, listener: Callable[[], None]) -> None:
        """Called whenever somebody might find something to claim who found nothing before."""
        self._changed.append(listener)

    async def products(self, store: Store) -> list[str]:
        """Those with jobs, in order: listed once, then kept by notes and refreshes, since listing is costly."""
        if not self._listed:
            self._products |= {name async for name in all_partitions(store, JOBS)}
            self._listed = True
        return sorted(self._products)

    def after_commit(self, job: Job, _events: tuple[EventDoc, ...]) -> None:
        self.note(job, ours=True)

    def note(self, job: Job, *, ours: bool = False) -> None:
        """The job as a commit of this process made it (`ours`), or as it was read. An older state changes nothing."""
        self._products.add(job.product_id)
        known = self._jobs.get(job.key)
        newer = known is None or known.seq < job.seq
        if newer:
            if self._touched is not None:
                self._touched.add(job.key)
            self._forget(job.key)
            if job.stage in self._by_stage:
                self._remember(job.model_copy(update={"body_md": None, "manifest_snapshot": "", "outbox": ()}))
        if job.stage is Stage.QUEUED and (newer or ours):
            for listener in self._queued:
                listener(job, ours=ours)
        if newer and (job.stage is Stage.QUEUED or (known is not None and known.held and not job.held)):
            self.wake()  # something to claim, or a seat and perhaps a lock to claim it with

    def wake(self) -> None:
        """Those who wait for something to claim look again."""
        for listener in self._changed:
            listener()

    def get(self, key: JobKey) -> Job | None:
        """An unfinished job as it is known here, without its body."""
        return self._jobs.get(key)

    def queued(self) -> Iterable[Job]:
        return list(self._by_stage[Stage.QUEUED].values())

    def blocked(self) -> Iterable[Job]:
        return list(self._by_stage[Stage.BLOCKED].values())

    def held(self) -> Iterable[Job]:
        return [job for stage in HELD for job in self._by_stage[stage].values()]

    def held_by(self, factory_id: str) -> Iterable[Job]:
        return list(self._held.get(factory_id, {}).values())

    def count_held_by(self, factory_id: str) -> int:
        return len(self._held.get(factory_id, ()))

    def is_held_by(self, key: JobKey, factory_id: str, session_id: str, lease_epoch: int) -> bool:
        job = self._jobs.get(key)
        return job is not None and job.is_held_by(factory_id, session_id, lease_epoch)

    def locks(self) -> dict[tuple[str, str], str]:
        return dict(self._locks)

    def waiting_for(self, key: JobKey) -> list[JobKey]:
        """The blocked jobs that name this one as a dep."""
        return sorted(self._dependents.get(key, ()))

    def counts(self) -> dict[str, int]:
        return {str(stage): len(jobs) for stage, jobs in self._by_stage.items()}

    async def refresh(self, store: Store) -> None:
        """Reads everything unfinished anew. What is noted meanwhile is newer than what is read."""
        async with self._refreshing:
            await self._refresh(store)

    async def _refresh(self, store: Store) -> None:
        self._touched = set()
        try:
            found: set[JobKey] = set()
            self._listed = False
            for product_id in await self.products(store):
                async for job in jobs_in(store, product_id, *INDEXED_STAGES):
                    found.add(job.key)
                    if job.key not in self._touched:
                        self.note(job)
                        self._touched.discard(job.key)
            for key in set(self._jobs) - found - self._touched:
                if self._jobs[key].held:
                    self.wake()
                self._forget(key)
        finally:
            self._touched = None

    def _remember(self, job: Job) -> None:
        self._jobs[job.key] = job
        self._by_stage[job.stage][job.key] = job
        if job.holder is not None:
            self._held.setdefault(job.holder.factory_id, {})[job.key] = job
            if job.lock is not None:
                self._locks[(job.product_id, job.lock)] = job.id
        if job.stage is Stage.BLOCKED:
            for dep in job.deps:
                self._dependents.setdefault(JobKey(job.product_id, dep), set()).add(job.key)

    def _forget(self, key: JobKey) -> None:
        job = self._jobs.pop(key, None)
        if job is None:
            return
        self._by_stage[job.stage].pop(key)
        if job.holder is not None:
            self._held[job.holder.factory_id].pop(key)
            if job.lock is not None and self._locks.get((job.product_id, job.lock)) == job.id:
                del self._locks[(job.product_id, job.lock)]
        if job.stage is Stage.BLOCKED:
            for dep in job.deps:
                dependents = self._dependents[JobKey(job.product_id, dep)]
                dependents.discard(key)
                if not dependents:
                    del self._dependents[JobKey(job.product_id, dep)]
