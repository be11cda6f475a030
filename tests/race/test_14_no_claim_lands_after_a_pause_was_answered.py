"""Race 14: a claim read the ledger (or that there is none), a pause is answered, and the claim's write lands."""

from __future__ import annotations

import pytest

from coordinator.context import Context
from coordinator.handlers.budgets import set_paused
from coordinator.store.memory import MemoryStore
from coordinator.store.port import JOBS, Address
from coordinator.store.queries import read_guard
from schemas.errors import ErrorCode, FleetError
from schemas.guards import LedgerGuard
from schemas.ids import LEDGER_ID
from schemas.job import Stage
from schemas.outcome import Outcome
from schemas.projections import Insights
from tests.support.faulty import FaultyStore, after
from tests.support.fleet import PRODUCT, FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time


def budgeted(store: FaultyStore | MemoryStore) -> Context:
    return coordinator(store, budgets=True)


async def ledger(ctx: Context) -> LedgerGuard:
    stored = await read_guard(ctx.store, PRODUCT, LEDGER_ID)
    assert stored is not None
    return LedgerGuard.model_validate(stored.doc)


@pytest.mark.parametrize("ledger_there", [True, False])
@in_virtual_time
async def test_a_pause_between_a_claims_read_and_its_write_refuses_the_claim(ledger_there: bool) -> None:
    store = FaultyStore(MemoryStore())
    ctx, other = budgeted(store), budgeted(store.inner)  # type: ignore[arg-type]
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    if not ledger_there:
        at = Address(JOBS, PRODUCT, LEDGER_ID)
        stored = await store.inner.read(at)
        assert stored is not None
        await store.inner.delete(at, stored.etag)
    store.script("commit", after(lambda: set_paused(other, PRODUCT, paused=True)))
    with pytest.raises(FleetError) as refused:
        await factory.granted("r1", job)
    assert refused.value.code is ErrorCode.BUDGET_PAUSED
    assert (await job_now(ctx, job)).stage is Stage.QUEUED
    await set_paused(ctx, PRODUCT, paused=False)
    assert (await factory.granted("r2", job)).lease_epoch == 1


@in_virtual_time
async def test_a_term_gives_back_exactly_what_it_reserved_and_is_billed_once() -> None:
    ctx = budgeted(MemoryStore())
    await submitted(ctx, budget="{usd: 5}")
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    assert (await ledger(ctx)).reserved == 5
    cost = Insights(cost_usd=2)
    await factory.report(grant, Outcome.ENGINE_FAILED, insights=cost)
    await factory.report(grant, Outcome.ENGINE_FAILED, insights=cost)
    settled = await ledger(ctx)
    assert (settled.reserved, settled.spent) == (0, 2)
