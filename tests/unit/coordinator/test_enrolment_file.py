"""Enrolments are applied at every start: what is known is listed once, and the second time nothing is written."""

from __future__ import annotations

import pytest

from coordinator.enrolment_file import Enrolments, FactoryEnrolment, OperatorEnrolment, apply
from coordinator.factories import read_enrolled
from coordinator.store.port import FACTORIES, OPERATORS
from schemas.errors import ErrorCode, FleetError
from tests.support.counting import CountingStore
from tests.support.fleet import coordinator
from tests.support.virtual import in_virtual_time

LISTINGS_MAX = 6  # of everybody once, however many there are: some pages, and the products


def named(count: int, *products: str, **fields: object) -> tuple[FactoryEnrolment, ...]:
    return tuple(
        FactoryEnrolment(id=f"f{number}", product_id=products[0], products=products, token_hash="hash", **fields)
        for number in range(count)
    )


def listings(store: CountingStore) -> int:
    return store.queries_of(FACTORIES) + store.listings.count(FACTORIES)


@pytest.mark.parametrize("count", [1, 10, 100])
@in_virtual_time
async def test_to_enrol_many_lists_the_known_once_and_not_once_for_each(count: int) -> None:
    store = CountingStore()
    await apply(coordinator(store), Enrolments(factories=(FactoryEnrolment(id="x1", product_id="bank", products=()),)))
    store.forget()
    ctx = coordinator(store)
    await apply(ctx, Enrolments(factories=named(count, "shop")))
    assert listings(store) <= LISTINGS_MAX
    assert store.reads_of(FACTORIES) == count
    assert {entry.doc.id for entry in ctx.roster.entries()} == {f"f{number}" for number in range(count)}


@in_virtual_time
async def test_the_second_time_nothing_is_written_and_everybody_is_known() -> None:
    store = CountingStore()
    file = Enrolments(
        operators=(OperatorEnrolment(id="ann", product_id="shop", token_hash="hash", products=("shop",)),),
        factories=named(10, "shop", "bank", capabilities=("gpu",)),
    )
    await apply(coordinator(store), file)
    store.forget()
    ctx = coordinator(store, seed=2)
    await apply(ctx, file)
    assert (store.writes_to(FACTORIES), store.writes_to(OPERATORS)) == (0, 0)
    assert len(ctx.roster.entries()) == 10


@in_virtual_time
async def test_without_factories_nobody_is_listed() -> None:
    store = CountingStore()
    await apply(coordinator(store), Enrolments())
    assert listings(store) == 0


@in_virtual_time
async def test_who_is_enrolled_at_another_product_is_refused_also_among_many() -> None:
    store = CountingStore()
    await apply(coordinator(store), Enrolments(factories=named(3, "bank")[2:]))
    with pytest.raises(FleetError, match="factory f2 is enrolled for product bank") as refused:
        await apply(coordinator(store), Enrolments(factories=named(5, "shop")))
    assert refused.value.code is ErrorCode.CONFLICT


@in_virtual_time
async def test_what_changed_in_the_file_is_changed_and_the_session_stays() -> None:
    store = CountingStore()
    ctx = coordinator(store)
    await apply(ctx, Enrolments(factories=named(3, "shop", capabilities=("gpu", "tpu"))))
    store.forget()
    first, *rest = named(3, "shop", capabilities=("gpu", "tpu"))
    less = first.model_copy(update={"capabilities": ("tpu",), "token_hash": None})
    await apply(ctx, Enrolments(factories=(less, *rest)))
    doc = (await read_enrolled(ctx, "f0")).factory
    assert (doc.enrolled_capabilities, doc.token_hashes) == (("tpu",), ())
    assert store.writes_to(FACTORIES) == 1


@in_virtual_time
async def test_one_name_under_two_products_in_one_file_is_refused() -> None:
    with pytest.raises(FleetError) as refused:
        await apply(coordinator(), Enrolments(factories=(*named(1, "shop"), *named(1, "bank"))))
    assert refused.value.code is ErrorCode.CONFLICT
