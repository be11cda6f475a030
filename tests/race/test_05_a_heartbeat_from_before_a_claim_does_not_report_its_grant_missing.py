"""Race 5: a heartbeat is sent before a claim and handled after the grant."""

from __future__ import annotations

from coordinator.handlers.heartbeats import heartbeat
from schemas.job import Stage
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_only_a_heartbeat_asked_after_the_claim_can_miss_its_grant() -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    slow = factory.heartbeat_request()
    await factory.granted("r1")
    await heartbeat(ctx, slow)
    assert (await job_now(ctx, job)).stage is Stage.ASSIGNED
    await factory.heartbeat(pending=("r1",))
    assert (await job_now(ctx, job)).stage is Stage.ASSIGNED
    await factory.heartbeat()
    assert (await job_now(ctx, job)).stage is Stage.QUEUED


@in_virtual_time
async def test_a_rest_session_is_exempt_from_missing() -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    client = FakeFactory(ctx, id="curl", session_id="rest", session_no=0)
    from coordinator.handlers.enrolment import enroll
    from schemas.factory import FactoryDoc
    from tests.support.fleet import PRODUCT

    await enroll(ctx, FactoryDoc(id="curl", product_id=PRODUCT, products=(PRODUCT,), engines=("shell",)))
    await client.granted("r1")
    await client.heartbeat()
    assert (await job_now(ctx, job)).stage is Stage.ASSIGNED
    assert factory.id != client.id
