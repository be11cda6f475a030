"""A product's ledger: pause and resume. It is a guard: every claim under budgets is committed with it."""

from __future__ import annotations

from coordinator.context import Context
from coordinator.store.port import ABSENT, JOBS, Guarded, Indefinite, StoreError
from coordinator.store.queries import read_guard
from schemas.errors import ErrorCode, FleetError
from schemas.guards import LedgerGuard
from schemas.ids import LEDGER_ID

TRIES_MAX = 20


async def set_paused(ctx: Context, product_id: str, *, paused: bool) -> LedgerGuard:
    """Once this is answered, nothing that read an earlier ledger can be committed any more: no claim, and no
    earlier pause or resume whose outcome was unknown. So it writes even where it finds what it wants.
    """
    doubt = False
    for _ in range(TRIES_MAX):
        try:
            stored = await read_guard(ctx.store, product_id, LEDGER_ID)
            known = (
                LedgerGuard.model_validate(stored.doc) if stored else LedgerGuard(id=LEDGER_ID, product_id=product_id)
            )
            wanted = known.model_copy(update={"paused": paused})
            write = Guarded(JOBS, wanted.to_doc(), stored.etag if stored else ABSENT)
            if (await ctx.store.commit([write])).ok:
                ctx.ready.wake()
                return wanted
        except Indefinite:
            doubt = True
        except StoreError:
            if not doubt:
                raise
            break
    raise FleetError(ErrorCode.UNAVAILABLE, f"the ledger of {product_id} could not be written: ask again")
