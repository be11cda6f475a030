"""Race 2: two factories, or two sessions of one, use the same requestId."""

from __future__ import annotations

from coordinator.loops.reaper import Reaper
from schemas.job import Stage
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_two_factories_with_one_request_id_get_different_jobs() -> None:
    ctx = coordinator()
    await submitted(ctx, "one")
    await submitted(ctx, "two")
    first, second = await FakeFactory(ctx, id="f1").joined(), await FakeFactory(ctx, id="f2").joined()
    mine, other = await first.granted("r1"), await second.granted("r1")
    assert mine.job_id != other.job_id
    assert (await first.granted("r1")).job_id == mine.job_id
    assert (await second.granted("r1")).job_id == other.job_id


@in_virtual_time
async def test_a_new_session_is_never_answered_with_the_grant_of_an_old_one() -> None:
    ctx = coordinator()
    job = await submitted(ctx, "one")
    old = await FakeFactory(ctx).joined()
    granted = await old.granted("r1")
    new = FakeFactory(ctx, session_id="s2", session_no=2)
    await new.hello()
    assert (await job_now(ctx, job)).stage is Stage.QUEUED
    again = await new.granted("r1")
    assert (again.job_id, again.lease_epoch) == (granted.job_id, granted.lease_epoch + 1)
    await Reaper(ctx).run_once(ctx.clock.now())
    holder = (await job_now(ctx, job)).holder
    assert holder is not None
    assert holder.session_id == "s2"
