"""Race 33: a report said when the quota is back, a later one said a later time, and the first one comes again."""

from __future__ import annotations

from datetime import timedelta

from coordinator.factories import read_enrolled
from schemas.outcome import Outcome
from schemas.work import Engine
from tests.support.fleet import FakeFactory, coordinator, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_the_engine_stays_gated_until_the_latest_time_that_was_reported() -> None:
    ctx = coordinator()
    factory = await FakeFactory(ctx).joined()
    await submitted(ctx, "one")
    await submitted(ctx, "two")
    first, second = await factory.granted("r1"), await factory.granted("r2")
    early, late = ctx.clock.now() + timedelta(hours=1), ctx.clock.now() + timedelta(hours=5)
    for grant, resets_at in ((first, early), (second, late), (first, early)):
        answer = await factory.report(grant, Outcome.QUOTA_EXHAUSTED, resets_at=resets_at)
        assert answer.report is not None
    assert answer.report.repeated
    assert (await read_enrolled(ctx, factory.id)).factory.gated == {Engine.SHELL: late}
    assert not (await factory.claim("r3")).grants
