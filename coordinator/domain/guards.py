"""What the guards of a job become when one of its terms begins or ends; committed with the job or not at all.

A lock's guard names who holds it. A product's ledger counts what is spent and reserved, and says if it is paused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from coordinator.domain.ops import Rejected
from schemas.guards import LedgerGuard, LockGuard
from schemas.ids import LEDGER_ID, lock_id
from schemas.job import Job


@dataclass(frozen=True)
class Guards:
    """As read; None where there is no such document, or where this step does not concern it."""

    lock: LockGuard | None = None
    ledger: LedgerGuard | None = None


class Needs(NamedTuple):
    lock: bool
    ledger: bool


def needs(before: Job, after: Job, *, budgets: bool) -> Needs:
    """Which guards a step must be committed with: those of a job whose term begins or ends by it."""
    turns = before.held != after.held
    owes = before.reserved > 0  # reserved while budgets were on: given back even if they are off now
    return Needs(turns and before.lock is not None, turns and (budgets or owes))


def settle(before: Job, after: Job, guards: Guards, need: Needs) -> tuple[Job, Guards] | Rejected:
    """The job and its guards after this step, or the refusal of a claim that a guard forbids."""
    lock, ledger = None, None
    if need.lock:
        settled = settle_lock(before, after, guards.lock)
        if isinstance(settled, Rejected):
            return settled
        lock = settled
    if need.ledger:
        billed = settle_ledger(before, after, guards.ledger)
        if isinstance(billed, Rejected):
            return billed
        after, ledger = billed
    return after, Guards(lock, ledger)


def settle_lock(before: Job, after: Job, lock: LockGuard | None) -> LockGuard | Rejected:
    assert before.lock is not None
    free = LockGuard(id=lock_id(before.lock), product_id=before.product_id)
    if after.held:
        if lock is not None and lock.job_id is not None:
            return Rejected("lock_busy", f"lock '{before.lock}' is held by {lock.job_id}", {"heldBy": lock.job_id})
        return free.model_copy(update={"job_id": after.id, "lease_epoch": after.lease_epoch})
    assert lock is not None, before.lock
    assert (lock.job_id, lock.lease_epoch) == (before.id, before.lease_epoch), (
        lock,
        before.id,
        before.lease_epoch,
    )
    return free


def settle_ledger(before: Job, after: Job, ledger: LedgerGuard | None) -> tuple[Job, LedgerGuard] | Rejected:
    """A term reserves what is left of its job's budget, and gives back exactly what it reserved."""
    ledger = ledger or LedgerGuard(id=LEDGER_ID, product_id=before.product_id)
    if after.held:
        if ledger.paused:
            return Rejected("budget_paused", f"product {before.product_id} is paused: it starts nothing new")
        reserved = max(0.0, (after.budget.usd or 0.0) - after.spend.usd)
        return (
            after.model_copy(update={"reserved": reserved}),
            ledger.model_copy(update={"reserved": ledger.reserved + reserved}),
        )
    spent = after.spend.usd - before.spend.usd
    return (
        after.model_copy(update={"reserved": 0.0}),
        ledger.model_copy(update={"reserved": ledger.reserved - before.reserved, "spent": ledger.spent + spent}),
    )
