"""A product's ledger: pause and resume. It is a guard: every claim under budgets is committed with it."""

from __future__ import annotations

from coordinator.context import Context
from coordinator.store.port import ABSENT, JOBS, Guarded, Indefinite
from coordinator.store.queries import read_guard
from schemas.errors import ErrorCode, FleetError
from schemas.guards import LedgerGuard
from schemas.ids import LEDGER_ID

TRIES_MAX = 20


async def set_paused(ctx: Context, product_id: str, *, paused: bool) -> LedgerGuard:
    """Once this is answered, no claim of the product that read an earlier ledger can be committed any more."""
    for _ in range(TRIES_MAX):
        try:
            stored = await read_guard(ctx.store, product_id, LEDGER_ID)
            known = (
                LedgerGuard.model_validate(stored.doc) if stored else LedgerGuard(id=LEDGER_ID, product_id=product_id)
            )
            wanted = known.model_copy(update={"paused": paused})
            if stored is not None and wanted == known:
                return known
            write = Guarded(JOBS, wanted.to_doc(), stored.etag if stored else ABSENT)
            if (await ctx.store.commit([write])).ok:
                return wanted
        except Indefinite:
            continue
    raise FleetError(ErrorCode.UNAVAILABLE, f"the ledger of {product_id} could not be written: ask again")
