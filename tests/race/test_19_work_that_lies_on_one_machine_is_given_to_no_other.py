"""Race 19: a job was released with its work on one machine only, and a coordinator's index is from before that."""

from __future__ import annotations

import pytest

from coordinator.store.memory import MemoryStore
from schemas.errors import ErrorCode, FleetError
from schemas.job import Stage
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time


@pytest.mark.parametrize("atomic_then", [True, False])
@in_virtual_time
async def test_a_stale_index_gives_the_job_to_nobody_but_the_machine_that_has_the_work(atomic_then: bool) -> None:
    store = MemoryStore(atomic_then=atomic_then)
    stale, fresh = coordinator(store), coordinator(store)
    owner, other = await FakeFactory(fresh, id="f1").joined(), await FakeFactory(stale, id="f2").joined()
    job = await submitted(stale)  # what `stale` knows of it until the end
    await fresh.ready.refresh(store)
    grant = await owner.granted("r1")
    await owner.start(grant)
    await owner.checkpoint(grant, local=True)
    await owner.release(grant)
    assert not (await other.claim("r1")).grants
    after = await job_now(stale, job)
    assert (after.stage, after.lease_epoch, after.granted_epoch) == (Stage.QUEUED, 2, 1)
    with pytest.raises(FleetError, match="lies on f1 alone") as refused:
        await other.claim("r2", job)
    assert refused.value.code is ErrorCode.NO_CAPABILITY
    again = await owner.on(stale).granted("r2")
    assert again.checkpoint is not None
    assert (again.lease_epoch, again.checkpoint.local) == (2, "f1")
