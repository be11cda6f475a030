"""Race 13: cancel, requeue, then the repeat of the cancel; and a report's repeat while its event moves."""

from __future__ import annotations

import pytest

from coordinator.context import Context
from coordinator.handlers.actions import act
from coordinator.loops.sweeper import Sweeper
from coordinator.store.memory import MemoryStore
from schemas.job import Stage
from tests.support.faulty import FaultyStore, after, never_applied, passes
from tests.support.fleet import FakeFactory, coordinator, events_of, job_now, submitted
from tests.support.virtual import in_virtual_time


@pytest.mark.parametrize("atomic_then", [True, False])
@in_virtual_time
async def test_the_repeat_of_a_cancel_after_a_requeue_cancels_nothing(atomic_then: bool) -> None:
    ctx = coordinator(MemoryStore(atomic_then=atomic_then))
    job = await submitted(ctx)
    await act(ctx, job.key, "cancel", "operator:ann", "k1")
    await act(ctx, job.key, "requeue", "operator:ann", "k2")
    again = await act(ctx, job.key, "cancel", "operator:ann", "k1")
    assert again.repeated
    assert (await job_now(ctx, job)).stage is Stage.QUEUED
    await act(ctx, job.key, "cancel", "operator:ann", "k3")
    assert (await job_now(ctx, job)).stage is Stage.FAILED
    assert len(await events_of(ctx, job)) == 4


@in_virtual_time
async def test_a_reports_repeat_is_found_while_the_sweeper_moves_its_event_out_of_the_outbox() -> None:
    store = FaultyStore(MemoryStore(atomic_then=False))
    ctx = coordinator(store)
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    await factory.start(grant)
    store.script("project", never_applied)
    await factory.report(grant)
    assert f"{job.id}:1:end" in {event.op_id for event in (await job_now(ctx, job)).outbox}
    sweeper = coordinator(store.inner)

    async def swept() -> None:
        await Sweeper(sweeper).run_once(sweeper.clock.now())

    store.script("read", passes, after(swept))
    answer = await factory.report(grant)
    assert answer.report is not None
    assert answer.report.repeated
    assert not (await job_now(ctx, job)).outbox
    assert [event.type for event in await events_of(ctx, job)].count("reported") == 1


@in_virtual_time
async def test_an_action_whose_answer_was_lost_is_done_once() -> None:
    async def repeated(ctx: Context) -> None:
        job = await submitted(ctx, "one")
        first = await act(ctx, job.key, "cancel", "operator:ann", "k1")
        second = await act(ctx, job.key, "cancel", "operator:ann", "k1")
        assert (first.event.id, first.repeated, second.repeated) == (second.event.id, False, True)

    await repeated(coordinator())
    await repeated(coordinator(MemoryStore(atomic_then=False)))
