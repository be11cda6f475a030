"""Race 22: the next holder numbers its checkpoints from one, below the last number of the holder before it."""

from __future__ import annotations

import pytest

from schemas.errors import ErrorCode, FleetError
from schemas.work import Checkpoint
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time

FIRST, SECOND = "a" * 40, "b" * 40


@in_virtual_time
async def test_a_later_terms_first_checkpoint_counts_and_within_a_term_numbers_only_rise() -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await factory.start(grant)
    await factory.checkpoint(grant, 3, commit=FIRST)
    await factory.release(grant)
    grant = await factory.granted("r2")
    assert grant.checkpoint is not None
    assert grant.checkpoint.commit == FIRST
    await factory.start(grant)
    await factory.checkpoint(grant, 1, commit=SECOND)
    saved = (await job_now(ctx, job)).checkpoint
    assert saved is not None
    assert (saved.commit, saved.number, saved.lease_epoch) == (SECOND, 1, 2)
    await factory.checkpoint(grant, 3, commit=SECOND)
    with pytest.raises(FleetError, match="checkpoint 2 is not above 3") as refused:
        await factory.checkpoint(grant, 2, commit=FIRST)
    assert refused.value.code is ErrorCode.CONFLICT


@in_virtual_time
async def test_what_each_holder_releases_with_is_where_the_next_one_starts() -> None:
    ctx = coordinator()
    await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r0")
    for number, commit in enumerate((FIRST, SECOND), start=1):
        await factory.start(grant)
        await factory.release(grant, checkpoint=Checkpoint(ref="refs/x", commit=commit, at=ctx.clock.now()))
        grant = await factory.granted(f"r{number}")
        assert grant.checkpoint is not None
        assert grant.checkpoint.commit == commit
