"""Race 29: a term is being ended, its lease is closed and its job not yet moved; the claim's repeat comes in."""

from __future__ import annotations

from coordinator.handlers.claims import claim
from coordinator.store.memory import MemoryStore
from schemas.job import Stage
from schemas.messages import ClaimAnswer
from tests.support.faulty import FaultyStore, after
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_the_grant_that_is_repeated_is_good_for_nothing_any_more() -> None:
    store = FaultyStore(MemoryStore())
    ctx, other = coordinator(store), coordinator(store)
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    request = factory.claim_request("r1")
    await claim(ctx, request)
    answers: list[ClaimAnswer] = []

    async def repeated() -> None:
        answers.append(await claim(other, request))

    store.script("commit", after(repeated))
    await factory.heartbeat()  # does not name the grant
    assert (await job_now(ctx, job)).stage is Stage.QUEUED
    (grant,) = answers[0].grants
    assert (grant.lease_epoch, grant.term.lease_left_s, grant.term.start_within_s) == (1, 0, 0)
