"""A submit takes effect once, says so, and is refused with what a person can mend."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator.context import Context
from coordinator.handlers.actions import act
from coordinator.handlers.intake import Submission, Submitted, submit
from coordinator.store.memory import MemoryStore
from coordinator.store.port import JOBS, Address, Query
from schemas.errors import ErrorCode, FleetError
from schemas.ids import JobKey, body_id, job_id_for
from schemas.job import Stage
from schemas.manifest import BODY_INLINE_MAX
from tests.support.faulty import FaultyStore, answer_lost, never_applied
from tests.support.fleet import PRODUCT, SHELL_BLOCK, FakeFactory, coordinator, events_of, job_now, manifest, submitted
from tests.support.virtual import in_virtual_time


async def sent(
    ctx: Context, raw: bytes, key: str | None = "one", product: str | None = PRODUCT, only: str | None = None
) -> Submitted:
    return await submit(ctx, Submission(raw, product, key), "operator:ann", only)


async def refusal(ctx: Context, raw: bytes, **asked: Any) -> FleetError:
    """What it is refused with; and nothing is in the store that was not there before."""
    before = await ctx.store.query(Query(JOBS, PRODUCT))
    with pytest.raises(FleetError) as refused:
        await sent(ctx, raw, **asked)
    assert await ctx.store.query(Query(JOBS, PRODUCT)) == before
    return refused.value


@in_virtual_time
async def test_a_repeated_submit_finds_the_first_and_changes_nothing() -> None:
    ctx = coordinator()
    first = await sent(ctx, manifest())
    await asyncio.sleep(5)
    again = await sent(ctx, manifest())
    assert (first.repeated, again.repeated) == (False, True)
    assert again.job == await job_now(ctx, first.job)
    assert [(e.seq, e.type) for e in await events_of(ctx, first.job)] == [(1, "submitted")]


@in_virtual_time
async def test_a_repeat_finds_the_job_wherever_it_is_by_then() -> None:
    ctx = coordinator()
    job = (await sent(ctx, manifest(verify='"true"'))).job
    factory = await FakeFactory(ctx).joined()
    await factory.report(await factory.granted("r1"))
    again = await sent(ctx, manifest(verify='"true"'))
    assert (again.repeated, again.job.id, again.job.stage) == (True, job.id, Stage.SHIPPED)


@pytest.mark.parametrize("fault", [answer_lost, never_applied])
@pytest.mark.parametrize("atomic_then", [True, False])
@in_virtual_time
async def test_a_submit_whose_first_write_is_in_doubt_makes_one_job(fault: Any, atomic_then: bool) -> None:
    store = FaultyStore(MemoryStore(atomic_then=atomic_then))
    store.script("commit", fault)
    ctx = coordinator(store)
    made = await sent(ctx, manifest())
    assert not made.repeated
    assert len(await events_of(ctx, made.job)) == 1


@in_virtual_time
async def test_of_two_submits_at_once_to_two_coordinators_one_makes_the_job_and_both_answer_it() -> None:
    store = MemoryStore()
    answers = await asyncio.gather(*(sent(coordinator(store, seed=n), manifest()) for n in range(8)))
    assert len({answer.job.id for answer in answers}) == 1
    assert [answer.repeated for answer in answers].count(False) == 1


@in_virtual_time
async def test_the_same_key_with_another_manifest_is_a_conflict() -> None:
    ctx = coordinator()
    first = await sent(ctx, manifest())
    refused = await refusal(ctx, manifest(body=f"do something else\n{SHELL_BLOCK}"))
    assert (refused.code, refused.detail) == (ErrorCode.CONFLICT, {"jobId": first.job.id})


@in_virtual_time
async def test_the_same_key_in_another_product_is_another_job() -> None:
    ctx = coordinator()
    ours, theirs = await sent(ctx, manifest()), await sent(ctx, manifest(), product="bank")
    assert ours.job.id != theirs.job.id
    assert not theirs.repeated


@in_virtual_time
async def test_the_requests_product_and_the_manifests_must_agree() -> None:
    ctx = coordinator()
    refused = await refusal(ctx, manifest(product="bank"))
    assert (refused.code, refused.detail) == (ErrorCode.CONFLICT, {"found": "bank", "wanted": "shop"})
    assert (await sent(ctx, manifest(product="shop"))).job.product_id == "shop"


@in_virtual_time
async def test_the_product_is_the_headers_else_the_manifests_else_the_tokens_only_one() -> None:
    ctx = coordinator()
    header = await sent(ctx, manifest(), only="lab")
    inside = await sent(ctx, manifest(product="bank"), product=None, only="lab")
    tokens = await sent(ctx, manifest(), product=None, only="lab")
    assert [one.job.product_id for one in (header, inside, tokens)] == ["shop", "bank", "lab"]
    refused = await refusal(ctx, manifest(), product=None)
    assert refused.code is ErrorCode.INVALID_REQUEST


@in_virtual_time
async def test_the_requests_key_and_the_manifests_must_agree() -> None:
    ctx = coordinator()
    refused = await refusal(ctx, manifest(idempotencyKey="other"))
    assert (refused.code, refused.detail) == (ErrorCode.CONFLICT, {"found": "other", "wanted": "one"})
    inside = await sent(ctx, manifest(idempotencyKey="other"), key=None)
    assert inside.job.id == job_id_for(PRODUCT, "other")
    assert inside.warnings == ()


@in_virtual_time
async def test_without_a_key_one_is_made_and_the_answer_says_that_it_is_not_safe_to_repeat() -> None:
    ctx = coordinator()
    first, second = [await sent(ctx, manifest(), key=None) for _ in range(2)]
    assert first.job.id != second.job.id
    assert first.job.idempotency_key
    (warning,) = first.warnings
    assert "not safe to repeat" in warning


@in_virtual_time
async def test_the_manifests_warnings_are_in_the_answer() -> None:
    answer = await sent(coordinator(), manifest(color="blue"))
    assert any("'color'" in warning for warning in answer.warnings)


@in_virtual_time
async def test_a_job_is_kept_as_it_was_written() -> None:
    ctx = coordinator()
    raw = manifest(
        body=f"do it — ütf\r\n{SHELL_BLOCK}", lock="repo", capabilities="[gpu, python, gpu]", retries=5, title="T"
    )
    job = await job_now(ctx, (await sent(ctx, raw)).job)
    assert (job.manifest_snapshot + str(job.body_md)).encode() == raw
    assert (job.stage, job.lease_epoch, job.granted_epoch, job.seq) == (Stage.QUEUED, 1, 0, 1)
    assert (job.lock, job.capabilities, job.retries.max, job.title) == ("repo", ("gpu", "python"), 5, "T")
    assert job.created_at == job.waiting_since == job.stage_since == ctx.clock.now()


@in_virtual_time
async def test_a_body_up_to_16_kib_is_in_the_job_and_a_longer_one_beside_it_and_granted_back_whole() -> None:
    ctx = coordinator()
    factory = await FakeFactory(ctx).joined()
    for number, size in enumerate((BODY_INLINE_MAX, BODY_INLINE_MAX + 1, 200 * 1024)):
        filler = size - len(SHELL_BLOCK)
        body = SHELL_BLOCK + "ü" * (filler // 2) + "x" * (filler % 2)
        raw = manifest(body=body)
        job = await job_now(ctx, (await sent(ctx, raw, key=f"k{number}")).job)
        assert (job.body_md is None) == (size > BODY_INLINE_MAX)
        grant = await factory.granted(f"r{number}", job)
        assert (grant.manifest_snapshot + grant.body_md).encode() == raw


@in_virtual_time
async def test_the_long_body_is_written_before_the_job() -> None:
    store = FaultyStore(MemoryStore())
    store.script("commit", *[never_applied] * 12)
    ctx = coordinator(store)
    raw = manifest(body=SHELL_BLOCK + "x" * 20_000)
    with pytest.raises(FleetError) as refused:
        await sent(ctx, raw)
    assert refused.value.code is ErrorCode.UNAVAILABLE
    (left,) = await store.query(Query(JOBS, PRODUCT))
    assert left.doc["id"].startswith("body:")
    made = await sent(ctx, raw)
    assert not made.repeated
    assert await store.read(Address(JOBS, PRODUCT, body_id(made.job.id, made.job.manifest_sha256))) is not None


@in_virtual_time
async def test_with_budgets_on_the_ledger_is_there_from_the_first_submit() -> None:
    ctx = coordinator(budgets=True)
    await sent(ctx, manifest())
    await sent(ctx, manifest(), key="two")
    ledger = await ctx.store.read(Address(JOBS, PRODUCT, "ledger"))
    assert ledger is not None
    assert ledger.doc["type"] == "ledger"


@pytest.mark.parametrize("by", ["id", "key"])
@in_virtual_time
async def test_a_dep_is_named_by_its_id_or_its_key_and_blocks(by: str) -> None:
    ctx = coordinator()
    dep = await submitted(ctx, "first")
    job = await submitted(ctx, "second", deps=dep.id if by == "id" else "first")
    assert (job.stage, job.deps) == (Stage.BLOCKED, (dep.id,))
    assert job.blocked_reason is not None
    assert (job.blocked_reason.kind, dep.id in job.blocked_reason.text) == ("deps", True)


@in_virtual_time
async def test_deps_that_are_shipped_already_do_not_block() -> None:
    ctx = coordinator()
    await submitted(ctx, "first", verify='"true"')
    factory = await FakeFactory(ctx).joined()
    await factory.report(await factory.granted("r1"))
    assert (await submitted(ctx, "second", deps="first")).stage is Stage.QUEUED


@in_virtual_time
async def test_a_dep_that_nobody_knows_is_refused_by_its_name() -> None:
    ctx = coordinator()
    await submitted(ctx, "first")
    refused = await refusal(ctx, manifest(deps="[first, frist]"))
    assert (refused.code, refused.detail["key"], refused.detail["found"]) == (
        ErrorCode.INVALID_MANIFEST,
        "deps",
        "frist",
    )


@in_virtual_time
async def test_a_dep_of_another_product_is_unknown() -> None:
    ctx = coordinator()
    theirs = await sent(ctx, manifest(), key="theirs", product="bank")
    assert (await refusal(ctx, manifest(deps=theirs.job.id))).code is ErrorCode.INVALID_MANIFEST


@pytest.mark.parametrize("name", ["one", job_id_for(PRODUCT, "one")])
@in_virtual_time
async def test_a_job_cannot_wait_for_itself(name: str) -> None:
    refused = await refusal(coordinator(), manifest(deps=name))
    assert refused.code is ErrorCode.INVALID_MANIFEST
    assert "waits for itself" in refused.message


@pytest.mark.parametrize("name", ["lock:repo", "ledger", "body"])
@in_virtual_time
async def test_a_dep_that_names_a_document_which_is_no_job_is_unknown(name: str) -> None:
    """Guards and bodies lie in the jobs' container; a name that is theirs is a mistake of the manifest's."""
    ctx = coordinator(budgets=True)
    job = await submitted(ctx, "first", lock="repo", body=SHELL_BLOCK + "x" * 20_000)
    factory = await FakeFactory(ctx).joined()
    await factory.granted("r1", job)
    name = body_id(job.id, job.manifest_sha256) if name == "body" else name
    refused = await refusal(ctx, manifest(deps=f'["{name}"]'))
    assert (refused.code, refused.detail["found"]) == (ErrorCode.INVALID_MANIFEST, name)


@pytest.mark.parametrize("way", ["claim", "cancel"])
@in_virtual_time
async def test_a_document_that_is_no_job_can_be_neither_claimed_nor_cancelled(way: str) -> None:
    """`ledger` is a legal id, and lies where the jobs lie."""
    ctx = coordinator(budgets=True)
    await submitted(ctx)
    factory = await FakeFactory(ctx).joined()
    asks = {
        "claim": lambda: factory.claim("r1", product_id=PRODUCT, job_id="ledger"),
        "cancel": lambda: act(ctx, JobKey(PRODUCT, "ledger"), "cancel", "operator:ann", "k1"),
    }
    with pytest.raises(FleetError) as refused:
        await asks[way]()
    assert refused.value.code is ErrorCode.NOT_FOUND


@in_virtual_time
async def test_an_invalid_manifest_leaves_nothing() -> None:
    refused = await refusal(coordinator(), b"---\nengine: gpt\n---\n")
    assert refused.code is ErrorCode.INVALID_MANIFEST
