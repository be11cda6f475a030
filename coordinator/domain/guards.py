"""What a lock's guard becomes when a term of a job begins or ends; committed with the job or not at all."""

from __future__ import annotations

from coordinator.domain.ops import Rejected
from schemas.ids import lock_id
from schemas.job import Job
from schemas.projections import LockGuard


def needs_lock(before: Job, after: Job) -> bool:
    return before.lock is not None and before.held != after.held


def settle_lock(before: Job, after: Job, lock: LockGuard | None) -> LockGuard | Rejected:
    """The guard after this step, or the refusal of a claim because another job holds the lock."""
    assert before.lock is not None
    free = LockGuard(id=lock_id(before.lock), product_id=before.product_id)
    if after.held:
        if lock is not None and lock.job_id is not None:
            return Rejected("lock_busy", f"lock '{before.lock}' is held by {lock.job_id}", {"heldBy": lock.job_id})
        return free.model_copy(update={"job_id": after.id, "lease_epoch": after.lease_epoch})
    assert lock is not None, before.lock
    assert (lock.job_id, lock.lease_epoch) == (before.id, before.lease_epoch), (lock, before.id, before.lease_epoch)
    return free
