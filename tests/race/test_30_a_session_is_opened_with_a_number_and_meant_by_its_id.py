"""Race 30: a client that leaves out its session, or only the session's number, meets a factory that has one."""

from __future__ import annotations

import pytest

from coordinator.factories import read_enrolled
from coordinator.handlers.claims import claim
from coordinator.handlers.sessions import hello
from schemas.errors import ErrorCode, FleetError
from schemas.messages import ClaimRequest, HelloRequest
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time


@pytest.mark.parametrize("number", [None, 2])
@in_virtual_time
async def test_a_hello_without_a_session_of_its_own_is_refused_and_changes_nothing(number: int | None) -> None:
    ctx = coordinator()
    factory = await FakeFactory(ctx, capabilities=("gpu",)).joined()
    before = (await read_enrolled(ctx, factory.id)).factory
    with pytest.raises(FleetError, match="opens no session") as refused:
        await hello(ctx, HelloRequest(factory_id=factory.id, session_no=number, takeover=True, seat_limit=4))
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert (await read_enrolled(ctx, factory.id)).factory == before


@in_virtual_time
async def test_a_claim_that_names_its_session_without_the_number_is_that_sessions() -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    factory = await FakeFactory(ctx, session_no=7).joined()
    (grant,) = (await claim(ctx, ClaimRequest(factory_id=factory.id, request_id="r1", session_id="s1"))).grants
    holder = (await job_now(ctx, job)).holder
    assert holder is not None
    assert (holder.session_id, holder.session_no) == ("s1", 7)
    (again,) = (await factory.claim("r1")).grants
    assert again.lease_epoch == grant.lease_epoch


@pytest.mark.parametrize(
    ("session_id", "session_no"), [("rest", None), ("rest", 0), ("s0", None), ("s1", 1), ("s2", 7)]
)
@in_virtual_time
async def test_a_claim_that_names_another_session_is_fenced(session_id: str, session_no: int | None) -> None:
    ctx = coordinator()
    await submitted(ctx)
    factory = await FakeFactory(ctx, session_no=7).joined()
    with pytest.raises(FleetError) as refused:
        await factory.claim("r1", session_id=session_id, session_no=session_no)
    assert refused.value.code is ErrorCode.FENCED
