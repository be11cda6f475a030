"""Guard documents: what a rule over several jobs hangs on. They share their jobs' partition; emptied, never deleted."""

from __future__ import annotations

from typing import Literal

from schemas.base import Schema


class LockGuard(Schema):
    """Who holds one lock name; nobody when it is empty."""

    id: str
    product_id: str
    job_id: str | None = None
    lease_epoch: int | None = None
    type: Literal["lock"] = "lock"


class LedgerGuard(Schema):
    """A product's money, in USD: what ended terms cost, and what running ones may still."""

    id: str
    product_id: str
    paused: bool = False
    spent: float = 0.0
    reserved: float = 0.0
    type: Literal["ledger"] = "ledger"
