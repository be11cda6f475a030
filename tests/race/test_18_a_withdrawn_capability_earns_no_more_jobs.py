"""Race 18: a factory said hello with a capability, and then its enrolment for that capability is withdrawn."""

from __future__ import annotations

import pytest

from coordinator.factories import change_factory
from coordinator.handlers.enrolment import enroll
from schemas.errors import ErrorCode, FleetError
from schemas.factory import FactoryDoc
from tests.support.fleet import PRODUCT, FakeFactory, coordinator, submitted
from tests.support.virtual import in_virtual_time

NARROWED = FactoryDoc(id="f1", product_id=PRODUCT, products=(PRODUCT,), enrolled_capabilities=("figma",))


@in_virtual_time
async def test_the_running_session_is_given_no_job_and_no_offer_that_needs_it() -> None:
    ctx = coordinator()
    factory = await FakeFactory(ctx, capabilities=("figma", "gpu")).joined()
    await enroll(ctx, NARROWED)
    job = await submitted(ctx, "one", capabilities="[gpu]")
    assert not (await factory.claim("r1")).grants
    assert not (await factory.claim("r2", capabilities=("figma", "gpu"))).grants
    with pytest.raises(FleetError, match="f1 lacks gpu") as refused:
        await factory.claim("r3", job)
    assert refused.value.code is ErrorCode.NO_CAPABILITY
    (view,) = ctx.roster.views()
    assert view.capabilities == {"figma"}


@in_virtual_time
async def test_the_claim_itself_goes_by_the_enrolment_whatever_the_factorys_document_lists() -> None:
    ctx = coordinator()
    factory = await FakeFactory(ctx, capabilities=("figma",)).joined()
    await change_factory(ctx, factory.id, lambda doc: doc.model_copy(update={"capabilities": ("figma", "gpu")}))
    await submitted(ctx, "one", capabilities="[gpu]")
    assert not (await factory.claim("r1")).grants
    figma = await submitted(ctx, "two", capabilities="[figma]")
    assert (await factory.granted("r2")).job_id == figma.id
