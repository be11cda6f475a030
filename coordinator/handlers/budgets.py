"""A product's ledger: pause and resume. It is a guard: every claim under budgets is committed with it."""

from __future__ import annotations

from coordinator.context import Context
from coordinator.store.change import change, unknown
from coordinator.store.port import JOBS
from coordinator.store.queries import read_ledger
from schemas.guards import LedgerGuard
from schemas.ids import LEDGER_ID


async def set_paused(ctx: Context, product_id: str, *, paused: bool) -> LedgerGuard:
    """Once this is answered, nothing that read an earlier ledger can be committed any more: no claim, and no
    earlier pause or resume whose outcome was unknown. So it writes even where it finds what it wants.
    """

    async def decide(known: LedgerGuard | None) -> LedgerGuard:
        known = known or LedgerGuard(id=LEDGER_ID, product_id=product_id)
        return known.model_copy(update={"paused": paused})

    in_doubt = unknown(f"the ledger of {product_id} could not be written: ask again")
    ledger: LedgerGuard = await change(
        ctx.store, JOBS, lambda: read_ledger(ctx.store, product_id), decide, ctx.entropy, in_doubt
    )
    ctx.ready.wake()
    return ledger
