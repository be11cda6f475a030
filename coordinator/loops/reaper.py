"""Ends terms that are expired, never started, of a session that is gone, or past a stop's deadline."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import datetime, timedelta

from coordinator.context import Context
from coordinator.domain import lease as lease_rules
from coordinator.domain.ops import Cause
from coordinator.leases import end_term
from coordinator.store.queries import jobs_in, read_factory, read_lease
from coordinator.transact import Applied
from runtime.loop import left_to_the_next_run
from schemas.job import Job, Stage
from schemas.projections import LeaseStatus

log = logging.getLogger(__name__)

ENDED_MAX = 500


class Reaper:
    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx

    async def run_once(self, now: datetime) -> Counter[str]:
        """Ends at most ENDED_MAX terms; gives how many, by cause."""
        ended: Counter[str] = Counter()
        for product_id in await self.ctx.ready.products(self.ctx.store):
            with left_to_the_next_run(f"the reaping of {product_id}"):
                await self._run_product(product_id, now, ended)
        return ended

    async def _run_product(self, product_id: str, now: datetime, ended: Counter[str]) -> None:
        async for job in jobs_in(self.ctx.store, product_id, Stage.ASSIGNED, Stage.BUILDING):
            if ended.total() >= ENDED_MAX:
                return
            with left_to_the_next_run(f"term {job.lease_epoch} of {job.id}"):
                cause = await self._due(job, now)
                if cause is not None and isinstance(await end_term(self.ctx, job, cause, now), Applied):
                    ended[cause] += 1
                    log.info("ended term %d of %s: %s", job.lease_epoch, job.id, cause)

    async def _due(self, job: Job, now: datetime) -> Cause | None:
        timers = self.ctx.timers
        skew = timedelta(seconds=timers.skew_s)
        if job.stop is not None and job.stop.deadline + skew <= now:
            return Cause.STOP_DEADLINE
        if job.stage is Stage.ASSIGNED and job.stage_since + timedelta(seconds=timers.grant_start_s) + skew <= now:
            return Cause.NOT_STARTED
        stored = await read_lease(self.ctx.store, job.id, job.lease_epoch)
        lease = stored.lease if stored else None
        if lease is not None and lease.status is LeaseStatus.CLOSED:
            return Cause.EXPIRED  # somebody began to end it and did not finish
        if lease_rules.expires_at(job, lease, timers.lease_ttl_s) + skew <= now:
            return Cause.EXPIRED
        if await self._session_gone(job):
            return Cause.SESSION_GONE
        return None

    async def _session_gone(self, job: Job) -> bool:
        assert job.holder is not None
        entry = self.ctx.roster.get(job.holder.factory_id)
        if entry is None:
            return False
        stored = await read_factory(self.ctx.store, entry.doc.product_id, entry.doc.id)
        return stored is not None and job.holder.session_no < stored.factory.session_no
