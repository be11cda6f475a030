"""Enrolment: which factories there are, what each may do, and which tokens are theirs."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

from coordinator.context import Context
from coordinator.factories import within
from coordinator.store.change import Keep, change, unknown
from coordinator.store.port import FACTORIES
from coordinator.store.queries import StoredFactory, all_factories, read_factory
from schemas.errors import ErrorCode, FleetError
from schemas.factory import FactoryDoc


async def enroll(ctx: Context, factory: FactoryDoc, homes: Mapping[str, str] | None = None) -> FactoryDoc:
    """Creates the factory, or changes what an existing one may do; its session stays.

    The tokens are those that are given: one that was replaced or taken out opens nothing any more.
    Raises conflict where another product has a factory of that name: subjects and terms know a factory by its id alone.
    `homes`: what `read_homes` gave, for a caller that enrols many.
    """

    async def decide(known: FactoryDoc | None) -> FactoryDoc | Keep[FactoryDoc]:
        if known is None:
            check_free(factory, await read_homes(ctx) if homes is None else homes)
            return factory
        wanted = known.model_copy(
            update={
                "products": factory.products,
                "enrolled_capabilities": factory.enrolled_capabilities,
                "capabilities": within(known.capabilities, factory.enrolled_capabilities),
                "token_hashes": factory.token_hashes,
                "bus_key": factory.bus_key or known.bus_key,
            }
        )
        return Keep(known) if wanted == known else wanted.model_copy(update={"rev": known.rev + 1})

    def read() -> Awaitable[StoredFactory | None]:
        return read_factory(ctx.store, factory.product_id, factory.id)

    in_doubt = unknown(f"{factory.id} could not be enrolled: ask again")
    enrolled = await change(ctx.store, FACTORIES, read, decide, ctx.entropy, in_doubt)
    ctx.roster.note(enrolled, heard=False, stored=True)
    ctx.ready.wake()
    ctx.capacity.announce()
    return enrolled


async def read_homes(ctx: Context) -> dict[str, str]:
    """The product under which each factory is enrolled, by its id. Reads them all."""
    return {known.id: known.product_id async for known in all_factories(ctx.store)}


def check_free(factory: FactoryDoc, homes: Mapping[str, str]) -> None:
    """Raises conflict where another product has a factory of this name."""
    home = homes.get(factory.id, factory.product_id)
    if home != factory.product_id:
        raise FleetError(
            ErrorCode.CONFLICT,
            f"factory {factory.id} is enrolled for product {home}: name this one otherwise, or enrol it"
            f" there with {factory.product_id} among its products",
            productId=home,
        )
