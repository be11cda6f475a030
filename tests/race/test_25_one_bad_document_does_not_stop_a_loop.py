"""Race 25: a loop meets a job whose documents cannot be reached just now, and goes on to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from coordinator.context import Context
from coordinator.loops.promoter import Promoter
from coordinator.loops.reaper import Reaper
from coordinator.loops.sweeper import Sweeper
from coordinator.store.memory import MemoryStore
from coordinator.store.port import Address, Derived, Guarded, Indefinite, Stored, Written
from schemas.job import Job, Stage
from schemas.outcome import Outcome
from tests.support.fleet import FakeFactory, coordinator, events_of, job_now, submitted
from tests.support.virtual import in_virtual_time


class HotSpotStore(MemoryStore):
    """Whatever concerns `hot_id` times out."""

    hot_id: str | None = None
    projects = True

    async def read(self, at: Address) -> Stored | None:
        self._avoid(at)
        return await super().read(at)

    async def commit(self, guarded: Sequence[Guarded], then: Sequence[Derived] = ()) -> Written:
        for write in guarded:
            self._avoid(write.address)
        return await super().commit(guarded, then)

    async def project(self, derived: Sequence[Derived]) -> None:
        if not self.projects:
            raise Indefinite("scripted: no projections now")
        for write in derived:
            self._avoid(write.address)
        await super().project(derived)

    def _avoid(self, at: Address) -> None:
        if self.hot_id in (at.partition, at.id):
            raise Indefinite(f"scripted: {self.hot_id} is hot")


async def fleet(store: HotSpotStore, **keys: object) -> tuple[Context, FakeFactory, list[Job]]:
    """Three jobs; the first that a loop comes to is the one that will be hot."""
    ctx = coordinator(store)
    factory = await FakeFactory(ctx).joined()
    jobs = [await submitted(ctx, f"k{number}", **keys) for number in range(3)]
    return ctx, factory, sorted(jobs, key=lambda job: job.id)


async def failed(factory: FakeFactory, jobs: list[Job]) -> None:
    for job in jobs:
        await factory.report(await factory.granted(f"of-{job.id}", job), Outcome.ENGINE_FAILED)


@in_virtual_time
async def test_the_reaper_ends_the_other_terms() -> None:
    store = HotSpotStore()
    ctx, factory, jobs = await fleet(store)
    for job in jobs:
        await factory.start(await factory.granted(f"of-{job.id}", job))
    await asyncio.sleep(63)
    store.hot_id = jobs[0].id
    assert await Reaper(ctx).run_once(ctx.clock.now()) == {"expired": 2}
    store.hot_id = None
    assert await Reaper(ctx).run_once(ctx.clock.now()) == {"expired": 1}


@in_virtual_time
async def test_the_promoter_queues_the_other_retries() -> None:
    store = HotSpotStore()
    ctx, factory, jobs = await fleet(store)
    await failed(factory, jobs)
    await asyncio.sleep(60)
    store.hot_id = jobs[0].id
    promoter = Promoter(ctx)
    assert await promoter.run_once(ctx.clock.now()) == {"retry": 2}
    store.hot_id = None
    assert await promoter.run_once(ctx.clock.now()) == {"retry": 1}


@in_virtual_time
async def test_the_promoter_goes_on_to_what_was_noted_after_it() -> None:
    store = HotSpotStore()
    ctx, factory, jobs = await fleet(store, retries=0)
    await failed(factory, jobs)
    promoter = Promoter(ctx)
    for job in jobs:
        promoter.note(await job_now(ctx, job))
    store.hot_id = jobs[0].id
    await promoter.run_noted(ctx.clock.now())
    store.hot_id = None
    assert [(await job_now(ctx, job)).stage for job in jobs] == [Stage.FAILED, Stage.DEAD_LETTER, Stage.DEAD_LETTER]


@in_virtual_time
async def test_the_sweeper_projects_the_others_and_refreshes_the_index() -> None:
    store = HotSpotStore(atomic_then=False)
    store.projects = False
    _, _, jobs = await fleet(store)
    store.projects, store.hot_id = True, jobs[0].id
    newcomer = coordinator(store)
    assert await Sweeper(newcomer).run_once(newcomer.clock.now()) == {"projected": 2}
    assert {job.id for job in newcomer.ready.queued()} == {job.id for job in jobs}
    assert [(await job_now(newcomer, job)).outbox for job in jobs[1:]] == [(), ()]
    store.hot_id = None
    assert await Sweeper(newcomer).run_once(newcomer.clock.now()) == {"projected": 1}
    assert len(await events_of(newcomer, jobs[0])) == 1
