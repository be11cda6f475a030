"""What a holder says at the end of its term binds that holder: no other machine, and no loop without end."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from schemas.errors import FleetError
from schemas.messages import CheckpointRequest, ReportRequest
from schemas.outcome import Outcome
from tests.support.fleet import FakeFactory, coordinator, job_now, submitted
from tests.support.virtual import in_virtual_time
from tests.unit.domain.builders import saved


@in_virtual_time
async def test_a_used_up_credential_is_gated_until_it_is_good_again() -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    resets_at = ctx.clock.now().replace(hour=5)
    await factory.report(await factory.granted("r1"), Outcome.QUOTA_EXHAUSTED, resets_at=resets_at)
    assert (await factory.claim("r2")).grants == ()
    assert (await job_now(ctx, job)).retries.used == 0
    other = await FakeFactory(ctx, "f2").joined()
    assert (await other.granted("r1")).job_id == job.id


@in_virtual_time
async def test_a_used_up_credential_of_which_nobody_knows_when_it_resets_is_not_tried_again_at_once() -> None:
    """It uses no retry and is no loss, so that nothing else would ever end the loop."""
    ctx = coordinator()
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    for ask in range(10):
        for grant in (await factory.claim(f"r{ask}")).grants:
            await factory.start(grant)
            await factory.report(grant, Outcome.QUOTA_EXHAUSTED)
    assert (await job_now(ctx, job)).attempt == 1


@pytest.mark.parametrize("where", [None, "f1"])
@in_virtual_time
async def test_work_that_a_report_leaves_on_its_own_machine_or_in_the_repo_is_resumed(where: str | None) -> None:
    ctx = coordinator()
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    await factory.report(await factory.granted("r1"), Outcome.RELEASED, checkpoint=saved(local=where))
    grant = await factory.granted("r2")
    assert (grant.job_id, grant.checkpoint) == (job.id, saved(local=where, lease_epoch=1))


@in_virtual_time
async def test_no_report_can_say_that_its_work_lies_on_somebody_elses_machine() -> None:
    """Such a job could be given to nobody, and no operator's action takes the machine's name out of it again."""
    ctx = coordinator()
    job = await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    try:
        await factory.report(grant, Outcome.RELEASED, checkpoint=saved(local="f99"))
    except (FleetError, ValidationError):
        return  # refused as it stands; or else taken without the other machine's name
    left = (await job_now(ctx, job)).checkpoint
    assert left is None or left.local in (None, "f1")


@pytest.mark.parametrize(("field", "value"), [("commit", "--output=x"), ("commit", "main"), ("ref", "x" * 201)])
def test_the_checkpoint_of_a_report_is_held_to_the_same_as_one_that_comes_alone(field: str, value: str) -> None:
    term = {"factoryId": "f1", "productId": "shop", "jobId": "j1", "leaseEpoch": 1}
    with pytest.raises(ValidationError):
        CheckpointRequest.model_validate({**term, "number": 1, "ref": "r", "commit": "a" * 40, field: value})
    with pytest.raises(ValidationError):
        ReportRequest.model_validate(
            {**term, "result": {"outcome": "ok"}, "checkpoint": {**saved().to_doc(), field: value}}
        )


@pytest.mark.parametrize(("keys", "stage"), [({"ship": "auto"}, "shipped"), ({"ship": "manual"}, "testing")])
@in_virtual_time
async def test_a_report_is_answered_with_the_stage_that_it_led_to_however_often_it_is_repeated(
    keys: dict[str, str], stage: str
) -> None:
    ctx = coordinator()
    await submitted(ctx, verify='"true"', **keys)
    factory = await FakeFactory(ctx).joined()
    grant = await factory.granted("r1")
    answers = [(await factory.report(grant)).report for _ in range(2)]
    assert [(answer.stage, answer.repeated) for answer in answers if answer] == [(stage, False), (stage, True)]
