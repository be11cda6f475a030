"""Finishes the work of coordinators that died: projects and trims outboxes, and reads the indexes anew."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from coordinator.context import Context
from coordinator.factories import refresh_roster
from coordinator.store.port import JOBS, Guarded, Indefinite, Where
from coordinator.store.queries import jobs_where, read_job
from runtime.loop import left_to_the_next_run
from schemas.ids import JobKey

SWEPT_MAX = 1000


class Sweeper:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    async def run_once(self, now: datetime) -> Counter[str]:
        swept: Counter[str] = Counter()
        if not self._ctx.store.atomic_then:
            with left_to_the_next_run("the projection of outboxes"):
                swept["projected"] = await self._project_left_over()
        await self._ctx.ready.refresh(self._ctx.store)
        await refresh_roster(self._ctx)
        self._ctx.ready.wake()  # every waiting call looks again: this process does not hear of everything that matters
        return swept

    async def _project_left_over(self) -> int:
        done = 0
        for product_id in await self._ctx.ready.products(self._ctx.store):
            with left_to_the_next_run(f"the outboxes of {product_id}"):
                async for job in jobs_where(self._ctx.store, product_id, Where("pendingEvents", ">", 0)):
                    if done >= SWEPT_MAX:
                        return done
                    with left_to_the_next_run(f"the outbox of {job.id}"):
                        done += await self._settle(job.key)
        return done

    async def _settle(self, key: JobKey) -> int:
        """Projects one job's outbox, then writes the job without it, unless it moved on meanwhile."""
        stored = await read_job(self._ctx.store, key)
        if stored is None or not stored.job.outbox:
            return 0
        if not await self._ctx.projector.project(stored.job):
            return 0
        trimmed = self._ctx.projector.trimmed(stored.job)
        try:
            written = await self._ctx.store.commit([Guarded(JOBS, trimmed.to_doc(), stored.etag)])
        except Indefinite:
            return 0  # trimming changes nothing that counts: the next run sees
        return int(written.ok)
