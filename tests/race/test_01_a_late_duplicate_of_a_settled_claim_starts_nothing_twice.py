"""Race 1: a claim is answered, its job finished, and then a duplicate of the claim arrives and wins another job."""

from __future__ import annotations

import pytest

from coordinator.handlers.claims import claim
from schemas.errors import ErrorCode, FleetError
from schemas.job import Stage
from schemas.outcome import Outcome
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_the_grant_of_a_late_duplicate_is_taken_back_uncharged_once_a_heartbeat_does_not_name_it() -> None:
    ctx = coordinator()
    await submitted(ctx, "one", verify='"true"')
    two = await submitted(ctx, "two")
    factory = await FakeFactory(ctx).joined()
    request = factory.claim_request("r1")
    first = await factory.granted("r1")
    await factory.start(first)
    await factory.report(first)
    (late,) = (await claim(ctx, request)).grants
    assert late.job_id == two.id
    await factory.heartbeat()
    after = await job_now(ctx, two)
    assert (after.stage, after.lease_epoch) == (Stage.QUEUED, 2)
    assert after.result is not None
    assert (after.result.outcome, after.lost_in_a_row, after.retries.used) == (Outcome.RELEASED, 0, 0)
    with pytest.raises(FleetError) as refused:
        await factory.start(late)
    assert refused.value.code is ErrorCode.FENCED


@in_virtual_time
async def test_the_factory_may_release_what_it_hears_under_a_settled_request() -> None:
    ctx = coordinator()
    await submitted(ctx, "one", verify='"true"')
    two = await submitted(ctx, "two")
    factory = await FakeFactory(ctx).joined()
    first = await factory.granted("r1")
    await factory.report(first)
    late = await factory.granted("r1")
    await factory.release(late)
    after = await job_now(ctx, two)
    assert (after.stage, after.retries.used, after.lost_in_a_row) == (Stage.QUEUED, 0, 0)
