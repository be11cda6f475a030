"""A document that is no job, or a product whose query fails, must not keep the reaper from all the rest."""

from __future__ import annotations

import asyncio

from coordinator.handlers import intake
from coordinator.loops.reaper import Reaper
from coordinator.store.memory import MemoryStore
from coordinator.store.port import JOBS, Address, Indefinite, Query, Stored
from tests.support.fleet import PRODUCT, FakeFactory, coordinator, manifest, submitted
from tests.support.virtual import in_virtual_time


class HotStore(MemoryStore):
    async def query(self, query: Query) -> list[Stored]:
        if query.container == JOBS and query.partition == "a":
            raise Indefinite("scripted: this partition does not answer")
        return await super().query(query)


@in_virtual_time
async def test_a_document_that_is_no_valid_job_is_passed_over() -> None:
    store = MemoryStore()
    ctx = coordinator(store)
    factory = await FakeFactory(ctx).joined()
    jobs = sorted([await submitted(ctx, f"k{n}") for n in range(3)], key=lambda job: job.id)
    for job in jobs:
        await factory.start(await factory.granted(f"r{job.id}", job))
    stored = await store.read(Address(JOBS, PRODUCT, jobs[0].id))
    assert stored is not None
    assert (await store.update(JOBS, {**stored.doc, "engine": "of the next version"}, stored.etag)).ok
    await asyncio.sleep(63)
    assert await Reaper(ctx).run_once(ctx.clock.now()) == {"expired": 2}


@in_virtual_time
async def test_a_product_that_cannot_be_read_does_not_hold_up_the_others() -> None:
    calm = MemoryStore()
    ctx = coordinator(calm)
    factory = await FakeFactory(ctx, products=("a", "b")).joined()
    for product in ("a", "b"):
        await intake.submit(ctx, intake.Submission(manifest(), product, "k"), "operator:ann")
        await factory.start(await factory.granted(f"r{product}"))
    await asyncio.sleep(63)
    hot = HotStore()
    hot._docs = calm._docs
    reaper = Reaper(coordinator(hot))
    assert await reaper.run_once(ctx.clock.now()) == {"expired": 1}
