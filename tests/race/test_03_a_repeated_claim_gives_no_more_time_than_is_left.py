"""Race 3: a claim is repeated near the lease's end; its answer must not be good for a whole TTL again."""

from __future__ import annotations

import asyncio

from tests.support.fleet import FakeFactory, coordinator, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_the_repeat_of_a_claim_carries_the_time_that_is_left_of_the_same_grant() -> None:
    ctx = coordinator()
    await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    first = await factory.granted("r1")
    assert (first.term.lease_left_s, first.term.start_within_s) == (60, 30)
    await asyncio.sleep(25)
    again = await factory.granted("r1")
    assert again.lease_epoch == first.lease_epoch
    assert (again.term.lease_left_s, again.term.start_within_s) == (35, 5)
    await asyncio.sleep(30)
    assert (await factory.granted("r1")).term.start_within_s == 0


@in_virtual_time
async def test_the_repeat_for_a_started_job_says_so_and_gives_no_time_to_start() -> None:
    ctx = coordinator()
    await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    await factory.start(await factory.granted("r1"))
    again = await factory.granted("r1")
    assert (again.started, again.term.start_within_s) == (True, 0)
