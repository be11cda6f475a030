"""Moves jobs on whose wait is over: their deps shipped, their retry is due, or their retries are used up."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from coordinator.context import Context
from coordinator.domain.dag import waits_for
from coordinator.domain.ops import FollowUp
from coordinator.domain.retry import exhausted
from coordinator.domain.table import Action
from coordinator.store.port import Where
from coordinator.store.queries import jobs_in, jobs_where, read_job
from coordinator.transact import Applied
from runtime.loop import left_to_the_next_run
from schemas.base import timestamp_text
from schemas.ids import JobKey
from schemas.job import Job, Stage
from schemas.projections import EventDoc

MOVED_MAX = 500
LOOK_BACK_S = 3600.0


class Promoter:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._failed_since: str | None = None  # the first run looks at all, later ones at what changed lately
        self._noted: deque[Job] = deque()

    def note(self, job: Job, _events: tuple[EventDoc, ...] = ()) -> None:
        """After a commit: others may wait for this job, or it may be due for the dead letters."""
        if job.is_finished or exhausted(job):
            self._noted.append(job)

    async def run_noted(self, now: datetime) -> int:
        """What the latest commits made due, at once rather than at the next interval."""
        done = 0
        while self._noted and done < MOVED_MAX:
            job = self._noted.popleft()
            for key in (job.key, *self._ctx.ready.waiting_for(job.key)):
                with left_to_the_next_run(f"the promotion of {key.job_id}"):
                    stored = await read_job(self._ctx.store, key)
                    if stored is not None:
                        await self.promote(stored.job, now)
            done += 1
        return done

    async def run_once(self, now: datetime) -> Counter[str]:
        """Everything there is, bounded by MOVED_MAX; gives how many, by action."""
        moved: Counter[str] = Counter()
        for product_id in await self._ctx.ready.products(self._ctx.store):
            with left_to_the_next_run(f"the promotions of {product_id}"):
                await self._run_product(product_id, now, moved)
        if moved.total() >= MOVED_MAX:
            return moved  # there may be more: the next run looks at all of it again
        self._failed_since = timestamp_text(now - timedelta(seconds=LOOK_BACK_S))
        return moved

    async def _run_product(self, product_id: str, now: datetime, moved: Counter[str]) -> None:
        async for job in self._waiting(product_id, now):
            if moved.total() >= MOVED_MAX:
                return
            with left_to_the_next_run(f"the promotion of {job.id}"):
                action = await self.promote(job, now)
                if action is not None:
                    moved[action] += 1

    async def promote(self, job: Job, now: datetime) -> Action | None:
        """One step of one job, if it is due."""
        step = await self.next_step(job, now)
        if step is None:
            return None
        outcome = await self._ctx.transactor.transact(job.key, step)
        return step.action if isinstance(outcome, Applied) else None

    async def _waiting(self, product_id: str, now: datetime) -> AsyncIterator[Job]:
        async for job in jobs_in(self._ctx.store, product_id, Stage.BLOCKED):
            yield job
        due = Where("notBefore", "<=", timestamp_text(now))
        async for job in jobs_where(self._ctx.store, product_id, Where("stage", "=", str(Stage.FAILED)), due):
            yield job
        final = [Where("stage", "=", str(Stage.FAILED)), Where("notBefore", "=", None)]
        if self._failed_since is not None:
            final.append(Where("updatedAt", ">", self._failed_since))
        async for job in jobs_where(self._ctx.store, product_id, *final):
            yield job

    async def next_step(self, job: Job, now: datetime) -> FollowUp | None:
        if job.stage is Stage.FAILED:
            if job.not_before is not None and job.not_before <= now:
                return FollowUp.of(job.key, job.seq, Action.RETRY)
            return FollowUp.of(job.key, job.seq, Action.BURY) if exhausted(job) else None
        if job.stage is not Stage.BLOCKED or job.blocked_reason is None:
            return None
        if job.blocked_reason.kind not in ("deps", "dep_failed"):
            return None
        deps = []
        for dep in job.deps:
            stored = await read_job(self._ctx.store, JobKey(job.product_id, dep))
            assert stored is not None, f"{job.id} waits for {dep}, which is not in the store"
            deps.append(stored.job)
        reason = waits_for(job.deps_mode, deps)
        if reason is None:
            return FollowUp.of(job.key, job.seq, Action.UNBLOCK)
        if reason != job.blocked_reason:
            return FollowUp.of(job.key, job.seq, Action.EXPLAIN_BLOCK, reason)
        return None
