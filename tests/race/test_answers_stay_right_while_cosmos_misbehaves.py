"""Throttled, unavailable, cut off before or after the write: what is answered is what the store then holds.

A question that could not be answered is asked again with the same ids, as every client does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar
from uuid import uuid4

import pytest

from chaos.live.cosmos_server import CosmosServer, HttpFault
from coordinator.context import Context
from coordinator.handlers.actions import act
from coordinator.store.cosmos import CosmosStore
from coordinator.store.port import StoreError
from runtime.clock import SystemClock
from schemas.errors import ErrorCode, FleetError
from schemas.job import Stage
from schemas.messages import Grant
from schemas.outcome import Outcome
from tests.support.fleet import FakeFactory, coordinator, events_of, job_now, submitted

Answer = TypeVar("Answer")

pytestmark = pytest.mark.xdist_group("cosmos")

JOBS_WRITTEN = r"(PUT|POST) .*/colls/fleet_jobs/docs"
SOON = {"x-ms-retry-after-ms": "20"}
TROUBLE = {
    "throttled": HttpFault(JOBS_WRITTEN, "status", 3, 429, SOON),
    "unavailable": HttpFault(JOBS_WRITTEN, "status", 2, 503),
    "cut off before the write": HttpFault(JOBS_WRITTEN, "drop", 2),
    "cut off after the write": HttpFault(JOBS_WRITTEN, "apply_then_drop", 1),
    "cut off after each of several writes": HttpFault(JOBS_WRITTEN, "apply_then_drop", 3),
}


@pytest.fixture
async def ctx(cosmos_server: CosmosServer) -> AsyncIterator[Context]:
    store = CosmosStore(cosmos_server.endpoint, cosmos_server.key, database=f"test-{uuid4().hex}", timeout_s=10.0)
    await store.open()
    yield coordinator(store, clock=SystemClock())
    await cosmos_server.fault([])
    await store.close()


async def insisted(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    for _ in range(10):
        try:
            return await ask()
        except StoreError:
            continue
        except FleetError as error:
            if error.code is not ErrorCode.UNAVAILABLE:
                raise
    raise AssertionError("never answered")


@pytest.mark.parametrize("trouble", TROUBLE.values(), ids=TROUBLE)
@pytest.mark.parametrize("lock", [None, "repo"], ids=["one document", "job and lock"])
async def test_each_step_of_a_job_happens_once_and_is_answered_so(
    cosmos_server: CosmosServer, ctx: Context, trouble: HttpFault, lock: str | None
) -> None:
    factory = await FakeFactory(ctx).joined()
    keys = {"verify": '"true"', "ship": "manual"} | ({"lock": lock} if lock else {})
    await cosmos_server.fault([trouble])
    job = await insisted(lambda: submitted(ctx, "one", **keys))
    await cosmos_server.fault([trouble])
    grant = await insisted(lambda: factory.granted("r1", job))
    await cosmos_server.fault([trouble])
    await insisted(lambda: factory.start(grant))
    await cosmos_server.fault([trouble])
    await insisted(lambda: reported(factory, grant))
    await cosmos_server.fault([trouble])
    shipped = await insisted(lambda: act(ctx, job.key, "ship", "operator:ann", "k1"))
    assert shipped.event.to_stage == "shipped"
    await cosmos_server.fault([])
    after = await job_now(ctx, job)
    assert (after.stage, after.lease_epoch, after.attempt) == (Stage.SHIPPED, 1, 1)
    types = [event.type for event in await events_of(ctx, job)]
    assert types == ["submitted", "claimed", "started", "reported", "shipped"]


async def reported(factory: FakeFactory, grant: Grant) -> None:
    answer = await factory.report(grant, Outcome.OK)
    if answer.report_error is not None:
        raise FleetError.from_doc(answer.report_error)


async def test_a_claim_that_lost_to_another_under_trouble_is_told_so(cosmos_server: CosmosServer, ctx: Context) -> None:
    first, second = await FakeFactory(ctx, "f1").joined(), await FakeFactory(ctx, "f2").joined()
    job = await submitted(ctx)
    await cosmos_server.fault([TROUBLE["cut off after the write"]])
    grant = await insisted(lambda: first.granted("r1", job))
    with pytest.raises(FleetError) as refused:
        await insisted(lambda: second.granted("r2", job))
    assert refused.value.code is ErrorCode.CONFLICT
    assert (await job_now(ctx, job)).lease_epoch == grant.lease_epoch
