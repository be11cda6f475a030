"""Race 17: a factory asks while the best jobs cannot be had: paused, locked, or just being asked for by others."""

from __future__ import annotations

import asyncio

import pytest

from coordinator.context import Context
from coordinator.handlers import intake
from coordinator.handlers.budgets import set_paused
from coordinator.handlers.claims import CANDIDATES_MAX
from coordinator.store.change import TRIES_MAX
from coordinator.store.memory import MemoryStore
from coordinator.store.port import Indefinite
from schemas.errors import ErrorCode, FleetError
from schemas.job import Job
from tests.support.faulty import Call, FaultyStore, after, never_applied
from tests.support.fleet import FakeFactory, coordinator, manifest, submitted
from tests.support.virtual import in_virtual_time

MORE_THAN_ONE_LOOK_TRIES = CANDIDATES_MAX + 1


async def submitted_to(ctx: Context, product_id: str, key: str) -> Job:
    return (await intake.submit(ctx, intake.Submission(manifest(), product_id, key), "operator:ann")).job


@in_virtual_time
async def test_the_jobs_of_a_paused_product_do_not_hide_another_products_job() -> None:
    ctx = coordinator(MemoryStore(), budgets=True)
    for number in range(MORE_THAN_ONE_LOOK_TRIES):
        await submitted_to(ctx, "shop", f"k{number}")
    await set_paused(ctx, "shop", paused=True)
    await asyncio.sleep(1)
    open_job = await submitted_to(ctx, "other", "one")
    factory = await FakeFactory(ctx, products=("shop", "other")).joined()
    assert (await factory.granted("r1")).job_id == open_job.id


@in_virtual_time
async def test_the_jobs_behind_a_lock_that_was_taken_elsewhere_do_not_hide_a_free_one() -> None:
    store = MemoryStore()
    ctx, other = coordinator(store), coordinator(store)
    behind = [await submitted(ctx, f"k{number}", lock="repo") for number in range(MORE_THAN_ONE_LOOK_TRIES)]
    await asyncio.sleep(1)
    free = await submitted(ctx, "free")
    factory = await FakeFactory(ctx).joined()
    await (await FakeFactory(other, id="f2").joined()).granted("r1", behind[-1])
    assert (await factory.granted("r1")).job_id == free.id


@in_virtual_time
async def test_of_a_herd_that_asks_at_once_each_factory_is_given_a_job() -> None:
    store = FaultyStore(MemoryStore())
    ctx = coordinator(store)
    herd = [await FakeFactory(ctx, id=f"f{number}").joined() for number in range(MORE_THAN_ONE_LOOK_TRIES + 1)]
    for number in range(len(herd)):
        await submitted(ctx, f"k{number}")
    written = asyncio.Event()
    *first, last = herd
    store.script("commit", *[after(written.wait)] * len(first))
    asks = [asyncio.create_task(each.granted("r1")) for each in first]
    await asyncio.sleep(1)
    mine = await last.granted("r1")  # all the others' grants are still on their way to the disk
    written.set()
    assert len({mine.job_id, *(grant.job_id for grant in await asyncio.gather(*asks))}) == len(herd)


@pytest.mark.parametrize("goes_away", [True, False], ids=["the asker goes away", "the store never tells"])
@in_virtual_time
async def test_a_job_passed_over_for_an_ask_that_broke_is_looked_at_again(goes_away: bool) -> None:
    store = FaultyStore(MemoryStore())
    ctx = coordinator(store)
    first, second = await FakeFactory(ctx, id="f1").joined(), await FakeFactory(ctx, id="f2").joined()
    job = await submitted(ctx)
    breaks = asyncio.Event()

    async def hangs(_call: Call) -> None:
        await breaks.wait()
        raise Indefinite("scripted: lost on the way")

    store.script("commit", hangs, *[never_applied] * (0 if goes_away else TRIES_MAX - 1))
    ask = asyncio.create_task(first.claim("r1"))
    await asyncio.sleep(1)
    poll = asyncio.create_task(second.claim("r1", wait_s=20))
    await asyncio.sleep(1)
    assert not poll.done()
    if goes_away:
        ask.cancel()
    breaks.set()
    broke_at_s = ctx.clock.boot_s()
    (grant,) = (await poll).grants
    assert grant.job_id == job.id
    assert ctx.clock.boot_s() - broke_at_s < 5
    (broken,) = await asyncio.gather(ask, return_exceptions=True)
    assert goes_away or (isinstance(broken, FleetError) and broken.code is ErrorCode.UNAVAILABLE)
