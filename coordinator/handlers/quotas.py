"""Quotas: an engine whose credential is used up gets no jobs until it is good again."""

from __future__ import annotations

from datetime import datetime

from coordinator.context import Context
from coordinator.factories import change_factory
from schemas.factory import FactoryDoc
from schemas.work import Engine


async def gate_engine(ctx: Context, factory_id: str, engine: Engine, until: datetime) -> None:
    """The credential is used up until then: the factory gets no job of this engine meanwhile."""

    def gated(factory: FactoryDoc) -> FactoryDoc | None:
        known = factory.gated.get(engine)
        if known is not None and known >= until:
            return None
        return factory.model_copy(update={"gated": {**factory.gated, engine: until}})

    await change_factory(ctx, factory_id, gated)
