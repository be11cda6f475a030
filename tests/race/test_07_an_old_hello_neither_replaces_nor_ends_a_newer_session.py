"""Race 7: a duplicate or slow hello of an old session arrives after a newer one took over."""

from __future__ import annotations

import asyncio

import pytest

from schemas.errors import ErrorCode, FleetError
from schemas.job import Stage
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_a_lower_hello_is_fenced_and_leaves_the_newer_sessions_terms_alone() -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    old = await FakeFactory(ctx).joined()
    new = FakeFactory(ctx, session_id="s2", session_no=2)
    await new.hello()
    grant = await new.granted("r1")
    for late in (old, FakeFactory(ctx, session_id="other", session_no=2)):
        with pytest.raises(FleetError) as refused:
            await late.hello()
        assert refused.value.code is ErrorCode.FENCED
    after = await job_now(ctx, job)
    assert (after.stage, after.lease_epoch) == (Stage.ASSIGNED, grant.lease_epoch)
    assert (await new.hello()).session_no == 2


@in_virtual_time
async def test_of_two_hellos_at_once_the_higher_session_remains() -> None:
    ctx = coordinator()
    factory = await FakeFactory(ctx).joined()
    second = FakeFactory(ctx, session_id="s2", session_no=2)
    third = FakeFactory(ctx, session_id="s3", session_no=3)
    await asyncio.gather(third.hello(), second.hello(), return_exceptions=True)
    entry = ctx.roster.get(factory.id)
    assert entry is not None
    assert (entry.doc.session_id, entry.doc.session_no) == ("s3", 3)
    with pytest.raises(FleetError):
        await second.claim("r1")


@in_virtual_time
async def test_a_lost_counter_needs_takeover_while_the_other_session_lives() -> None:
    ctx = coordinator()
    factory = await FakeFactory(ctx).joined()
    await factory.heartbeat()
    lost = FakeFactory(ctx, session_id="s9")
    with pytest.raises(FleetError, match="--takeover"):
        await lost.hello(session_no=None)
    told = await lost.hello(session_no=None, takeover=True)
    assert (told.opened, told.session_no) == (False, 2)
    assert (await lost.hello(session_no=2)).opened
    await asyncio.sleep(36)
    assert (await FakeFactory(ctx, session_id="s10").hello(session_no=None)).session_no == 3


@in_virtual_time
async def test_a_late_duplicate_of_a_hello_without_a_number_opens_nothing() -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    first = await FakeFactory(ctx).joined()
    lost = FakeFactory(ctx, session_id="s9")
    await lost.hello(session_no=None, takeover=True)
    await lost.hello(session_no=2)
    later = FakeFactory(ctx, session_id="s10", session_no=3)
    await later.hello()
    await later.granted("r1")
    await lost.hello(session_no=None, takeover=True)
    after = await job_now(ctx, job)
    assert (after.stage, after.lease_epoch) == (Stage.ASSIGNED, 1)
    assert first.id == later.id
