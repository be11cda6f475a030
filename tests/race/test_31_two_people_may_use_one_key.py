"""Race 31: two operators act on a job under the same Idempotency-Key; neither is answered with the other's act."""

from __future__ import annotations

import pytest

from coordinator.context import Context
from coordinator.handlers.actions import act, review
from coordinator.store.memory import MemoryStore
from schemas.job import Job, Stage
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time

ANN, BOB = "operator:ann", "operator:bob"


async def reviewed(ctx: Context) -> Job:
    """A job that waits for two approvals."""
    job = await submitted(ctx, review=2, verify='"true"', ship="auto")
    factory = await FakeFactory(ctx).joined()
    await factory.report(await factory.granted("r1"))
    return job


@pytest.mark.parametrize("atomic_then", [True, False])
@in_virtual_time
async def test_two_approvals_under_one_key_are_two_and_the_repeat_of_one_is_one(atomic_then: bool) -> None:
    ctx = coordinator(MemoryStore(atomic_then=atomic_then))
    job = await reviewed(ctx)
    assert not (await review(ctx, job.key, "approve", ANN, "1")).repeated
    assert (await review(ctx, job.key, "approve", ANN, "1")).repeated
    assert (await job_now(ctx, job)).stage is Stage.REVIEW
    second = await review(ctx, job.key, "approve", BOB, "1")
    assert (second.event.actor, second.repeated) == (BOB, False)
    assert (await job_now(ctx, job)).stage is Stage.SHIPPED


@pytest.mark.parametrize("atomic_then", [True, False])
@in_virtual_time
async def test_a_cancel_under_the_key_of_somebody_elses_cancel_cancels(atomic_then: bool) -> None:
    ctx = coordinator(MemoryStore(atomic_then=atomic_then))
    job = await submitted(ctx)
    await act(ctx, job.key, "cancel", ANN, "1")
    await act(ctx, job.key, "requeue", ANN, "1")
    assert not (await act(ctx, job.key, "cancel", BOB, "1")).repeated
    assert (await job_now(ctx, job)).stage is Stage.FAILED
