"""A batch: one answer per item, in order; deps may name items of the batch, in whatever order they stand."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.handlers.intake import BATCH_MAX, Submission, Submitted, submit_batch
from coordinator.store.memory import MemoryStore
from coordinator.store.port import JOBS, Query
from schemas.errors import ERRORS, ErrorCode, FleetError
from schemas.job import Job, Stage
from tests.support.faulty import FaultyStore, never_applied
from tests.support.fleet import PRODUCT, coordinator, manifest, submitted
from tests.support.virtual import in_virtual_time


def item(key: str, deps: str | None = None, **keys: Any) -> Submission:
    return Submission(manifest(title=key, **({"deps": deps} if deps else {}), **keys), PRODUCT, key)


async def answers(ctx: Any, *items: Submission) -> list[Submitted | FleetError]:
    return await submit_batch(ctx, list(items), "operator:ann")


def made(answer: Submitted | FleetError) -> Job:
    assert isinstance(answer, Submitted), answer
    return answer.job


def code(answer: Submitted | FleetError) -> str:
    return "ok" if isinstance(answer, Submitted) else str(answer.code)


@in_virtual_time
async def test_each_item_has_its_own_answer_in_the_order_of_the_items() -> None:
    ctx = coordinator()
    await submitted(ctx, "old")
    given = await answers(
        ctx,
        item("a"),
        Submission(b"---\nengine: gpt\n---\n", PRODUCT, "b"),
        item("old"),
        item("c", deps="nobody"),
        item("a"),
        item("d", product="bank"),
        item("e"),
    )
    refused = ["ok", "invalid_manifest", "conflict", "invalid_manifest", "ok", "conflict", "ok"]
    assert [code(answer) for answer in given] == refused
    assert made(given[0]).id == made(given[4]).id
    assert sorted(one.repeated for one in given if isinstance(one, Submitted)) == [False, False, True]


@in_virtual_time
async def test_deps_name_items_of_the_batch_by_key_whatever_their_order() -> None:
    given = await answers(coordinator(), item("top", deps="[left, right]"), item("left", deps="base"),
                          item("right", deps="base"), item("base"))  # fmt: skip
    top, left, right, base = (made(answer) for answer in given)
    assert (top.deps, left.deps, right.deps, base.deps) == ((left.id, right.id), (base.id,), (base.id,), ())
    assert [job.stage for job in (top, left, right, base)] == [Stage.BLOCKED] * 3 + [Stage.QUEUED]


@pytest.mark.parametrize("mode", ["all", "any"])
@in_virtual_time
async def test_a_new_dep_blocks_in_either_mode(mode: str) -> None:
    ctx = coordinator()
    _, _, last = await answers(ctx, item("a"), item("b"), item("c", deps="[a, b]", depsMode=mode))
    assert (made(last).stage, made(last).deps_mode) == (Stage.BLOCKED, mode)
    reason = made(last).blocked_reason
    assert reason is not None
    assert f"waits for {mode} of" in reason.text


@in_virtual_time
async def test_a_repeated_batch_changes_nothing() -> None:
    ctx = coordinator()
    batch = [item("a"), item("b", deps="a")]
    first = await answers(ctx, *batch)
    again = await answers(ctx, *batch)
    assert [made(answer).id for answer in again] == [made(answer).id for answer in first]
    assert all(isinstance(answer, Submitted) and answer.repeated for answer in again)


@in_virtual_time
async def test_the_items_of_a_cycle_are_refused_and_so_is_what_waits_for_them_and_nothing_else() -> None:
    ctx = coordinator()
    given = await answers(ctx, item("a", deps="b"), item("b", deps="c"), item("c", deps="a"), item("d", deps="a"),
                          item("e"), item("f", deps="e"))  # fmt: skip
    assert [code(answer) for answer in given] == ["invalid_manifest"] * 4 + ["ok", "ok"]
    assert all("cycle" in str(answer) for answer in given[:3])
    assert len(await ctx.store.query(Query(JOBS, PRODUCT))) == 2


@in_virtual_time
async def test_every_one_of_several_cycles_is_found() -> None:
    given = await answers(coordinator(), item("a", deps="b"), item("b", deps="a"), item("c", deps="d"),
                          item("d", deps="c"), item("e", deps="e"), item("f"))  # fmt: skip
    assert [code(answer) for answer in given] == ["invalid_manifest"] * 5 + ["ok"]


@in_virtual_time
async def test_whatever_waits_for_a_refused_item_is_refused_too() -> None:
    ctx = coordinator()
    given = await answers(ctx, item("a", deps="nobody"), item("b", deps="a"), item("c", deps="b"), item("d"))
    assert [code(answer) for answer in given] == ["invalid_manifest"] * 3 + ["ok"]


@in_virtual_time
async def test_of_several_items_under_one_key_the_first_is_the_job_that_others_wait_for() -> None:
    given = await answers(coordinator(), item("x"), item("x", lock="other"), item("y", deps="x"))
    assert [code(answer) for answer in given] == ["ok", "conflict", "ok"]
    given = await answers(coordinator(), item("m"), item("n", deps="m"), item("m", deps="n"))
    assert [code(answer) for answer in given] == ["ok", "ok", "conflict"]


@in_virtual_time
async def test_an_item_that_waits_for_one_of_unknown_fate_is_not_refused_for_good() -> None:
    """`a` may yet be stored and the same batch may succeed when it is repeated, so that `b` must not hear never."""
    store = FaultyStore(MemoryStore())
    store.script("commit", *[never_applied] * 12)
    ctx = coordinator(store)
    batch = [item("a"), item("b", deps="a")]
    given = await answers(ctx, *batch)
    assert code(given[0]) == "unavailable"
    assert [code(answer) for answer in await answers(ctx, *batch)] == ["ok", "ok"]
    assert isinstance(given[1], FleetError)
    assert not ERRORS[given[1].code].definite


@in_virtual_time
async def test_one_item_that_cannot_be_read_does_not_take_the_others_answers_along() -> None:
    given = await answers(coordinator(), item("a"), Submission(manifest(title='"\\UFFFFFFFF"'), PRODUCT, "b"))
    assert [code(answer) for answer in given] == ["ok", "invalid_manifest"]


@in_virtual_time
async def test_a_batch_is_bounded() -> None:
    ctx = coordinator()
    with pytest.raises(FleetError) as refused:
        await answers(ctx, *[item(f"k{n}") for n in range(BATCH_MAX + 1)])
    assert refused.value.code is ErrorCode.TOO_LARGE
    assert len(await answers(ctx, *[item(f"k{n}") for n in range(BATCH_MAX)])) == BATCH_MAX
