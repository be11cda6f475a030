"""The factories' documents: read by the id alone, since a factory's id is its own in the whole fleet, and changed."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.context import Context
from coordinator.store.change import Keep, change, unknown
from coordinator.store.port import FACTORIES
from coordinator.store.queries import StoredFactory, all_factories, read_factory
from schemas.errors import ErrorCode, FleetError
from schemas.factory import FactoryDoc


async def read_enrolled(ctx: Context, factory_id: str) -> StoredFactory:
    """The factory's document, read afresh. Raises not_found for one that nobody enrolled."""
    entry = ctx.roster.get(factory_id)
    if entry is None:
        await refresh_roster(ctx)
        entry = ctx.roster.get(factory_id)
    stored = await read_factory(ctx.store, entry.doc.product_id, factory_id) if entry else None
    if stored is None:
        raise FleetError(ErrorCode.NOT_FOUND, f"factory {factory_id} is not enrolled", factoryId=factory_id)
    return stored


async def refresh_roster(ctx: Context) -> None:
    """Notes every factory that the store knows."""
    async for factory in all_factories(ctx.store):
        ctx.roster.note(factory, heard=False)


async def change_factory(
    ctx: Context,
    factory_id: str,
    wanted_of: Callable[[FactoryDoc], FactoryDoc | None],
    known: StoredFactory | None = None,
) -> FactoryDoc:
    """`wanted_of` gives None where there is nothing to write, and may raise. `known`: a first read made already."""
    reads = [known] if known is not None else []

    async def read() -> StoredFactory:
        return reads.pop() if reads else await read_enrolled(ctx, factory_id)

    async def decide(factory: FactoryDoc | None) -> FactoryDoc | Keep[FactoryDoc]:
        assert factory is not None
        wanted = wanted_of(factory)
        return Keep(factory) if wanted is None else wanted.model_copy(update={"rev": factory.rev + 1})

    in_doubt = unknown(f"the document of {factory_id} could not be written: ask again")
    changed = await change(ctx.store, FACTORIES, read, decide, ctx.entropy, in_doubt)
    ctx.roster.note(changed, heard=False, stored=True)
    return changed


def within(capabilities: tuple[str, ...], enrolled: tuple[str, ...]) -> tuple[str, ...]:
    """Of these capabilities the ones that the factory is enrolled for, in order."""
    return tuple(sorted(set(capabilities) & set(enrolled)))
