"""Race 4: a heartbeat finds enough left of the lease and does not write; its answer must say just what is left."""

from __future__ import annotations

import asyncio

from tests.support.fleet import FakeFactory, coordinator, lease_of, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_a_heartbeat_without_a_write_answers_the_time_left_and_one_with_a_write_the_whole_ttl() -> None:
    ctx = coordinator()
    await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await factory.start(grant)
    before = await lease_of(ctx, grant)
    await asyncio.sleep(15)
    (term,) = (await factory.heartbeat(grant)).terms
    assert await lease_of(ctx, grant) == before
    assert term.term is not None
    assert term.term.lease_left_s == 45
    await asyncio.sleep(10)
    (term,) = (await factory.heartbeat(grant)).terms
    assert await lease_of(ctx, grant) != before
    assert term.term is not None
    assert term.term.lease_left_s == 60
