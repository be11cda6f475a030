"""Submits: what is taken, what is refused and how that is said; a refused one leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from coordinator.http.problems import BODY_BYTES_MAX
from coordinator.store.memory import MemoryStore
from coordinator.store.port import StoreFull
from schemas.ids import job_id_for
from schemas.manifest import MANIFEST_BYTES_MAX
from tests.support.faulty import FaultyStore, answer_lost, never_applied
from tests.support.fleet import PRODUCT, SHELL_BLOCK, manifest
from tests.support.rest import RestWorld, problem_of
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_a_manifest_is_taken_as_markdown_and_kept_verbatim(world: RestWorld) -> None:
    await world.enrolled()
    raw = b"---\nengine: shell   # a comment\ntitle: 'A: \xc3\xa4'\n---\r\nbody\r\n```sh\r\ntrue\r\n```\r\n"
    answer = await world.submit(raw, key="k")
    assert answer.status_code == 201
    assert answer.json()["repeated"] is False
    job = await world.job(answer.json()["job"]["id"])
    assert (job["manifestSnapshot"] + job["bodyMd"]).encode() == raw
    assert (job["title"], job["stage"], job["idempotencyKey"]) == ("A: ä", "queued", "k")


@in_virtual_time
async def test_a_manifest_is_taken_inside_json(world: RestWorld) -> None:
    await world.enrolled()
    body = {"manifest": manifest().decode(), "idempotencyKey": "k"}
    answer = await world.post("/jobs", world.ann, json=body)
    assert (answer.status_code, answer.json()["job"]["idempotencyKey"]) == (201, "k")
    assert answer.json()["warnings"] == []


@in_virtual_time
async def test_a_repeat_under_the_same_key_is_answered_with_the_first_job(world: RestWorld) -> None:
    await world.enrolled()
    first = await world.submit(manifest(), key="k")
    again = await world.submit(manifest(), key="k")
    in_the_manifest = await world.submit(manifest(idempotencyKey="k2"))
    both = await world.submit(manifest(idempotencyKey="k2"), key="k2")
    assert (again.status_code, again.json()["repeated"]) == (200, True)
    assert again.json()["job"]["id"] == first.json()["job"]["id"] == job_id_for(PRODUCT, "k")
    assert both.json()["job"]["id"] == in_the_manifest.json()["job"]["id"]


@in_virtual_time
async def test_the_same_key_for_another_manifest_is_a_conflict(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted("k")
    problem = problem_of(await world.submit(manifest(f"other\n{SHELL_BLOCK}"), key="k"), 409, "conflict")
    assert problem["extra"] == {"jobId": job_id}


@in_virtual_time
async def test_without_a_key_the_submit_is_said_not_to_be_safe_to_repeat(world: RestWorld) -> None:
    await world.enrolled()
    assert "not safe to repeat" in (await world.submit()).json()["warnings"][0]


@in_virtual_time
async def test_keys_and_products_that_contradict_each_other_are_conflicts(world: RestWorld) -> None:
    await world.enrolled()
    before = await world.everything()
    problem_of(await world.submit(manifest(idempotencyKey="a"), key="b"), 409, "conflict")
    problem_of(await world.submit(manifest(product="bank"), product=PRODUCT), 409, "conflict")
    body = {"manifest": manifest().decode(), "idempotencyKey": "a"}
    problem_of(await world.post("/jobs", world.ann, json=body, headers={"Idempotency-Key": "b"}), 409, "conflict")
    assert await world.everything() == before


@in_virtual_time
async def test_an_unknown_key_is_kept_and_warned_of_with_its_line(world: RestWorld) -> None:
    await world.enrolled()
    answer = await world.submit(manifest(colour="red"), key="k")
    assert answer.json()["warnings"] == ["line 3: unknown key 'colour' is kept but has no effect"]


WRONG: list[tuple[bytes, list[str]]] = [
    (b"", ["line 1", "no front matter", "allowed is a first line '---'"]),
    (b"just text\n", ["line 1", "no front matter", "allowed is a first line '---'"]),
    (b"---\nengine: shell\nno end\n", ["line 1", "without its closing line '---'"]),
    (b"---\nengine: [shell\n---\nx\n", ["line ", "broken YAML"]),
    (b"---\n- a list\n---\nx\n", ["line 2", "no mapping"]),
    (b"---\ntitle: x\n---\nx\n", ["key 'engine'", "no such key", "claude | codex | devin | shell"]),
    (b"---\nengine: shell\n---\n\xff\n", ["line 4", "0xff", "UTF-8"]),
    (b"---\nengine: shell\nengine: codex\n---\n", ["line 3, key 'engine'", "the key a second time"]),
    (b"---\ntitle: x\nengine: vim\n---\n", ["line 3, key 'engine'", "found 'vim'", "claude | codex | devin | shell"]),
    (manifest(timeout="soon"), ["line 3, key 'timeout'", "found 'soon'", "90s, 15m or 3h"]),
    (manifest(timeout="-5m"), ["line 3, key 'timeout'", "found '-5m'"]),
    (manifest(budget="{usd: -1}"), ["line 3, key 'budget.usd'", "found '-1'", "at least 0"]),
    (manifest(budget="{eur: 1}"), ["line 3, key 'budget.eur'", "allowed is usd, tokens, wall"]),
    (manifest(priority="urgent"), ["line 3, key 'priority'", "found 'urgent'", "critical | high | normal | low"]),
    (manifest(capabilities="[GPU]"), ["line 3, key 'capabilities'", "found 'GPU'", "a-z"]),
    (manifest(product="My Shop"), ["line 3, key 'product'", "found 'My Shop'"]),
    (manifest(retries="many"), ["line 3, key 'retries'", "found 'many'", "a whole number"]),
    (manifest(deps="[nobody]"), ["deps", "found 'nobody'", "id or idempotencyKey of a job of product shop"]),
    (manifest(deps="[itself]"), ["deps", "waits for itself"]),
]


@pytest.mark.parametrize(("raw", "words"), WRONG, ids=[str(number) for number in range(len(WRONG))])
@in_virtual_time
async def test_a_bad_manifest_is_refused_with_place_found_and_allowed(
    world: RestWorld, raw: bytes, words: list[str]
) -> None:
    await world.enrolled()
    before = await world.everything()
    problem = problem_of(await world.submit(raw, key="itself"), 422, "invalid_manifest")
    for word in words:
        assert word in problem["detail"]
    assert problem["definite"] is True
    assert await world.everything() == before


@in_virtual_time
async def test_a_manifest_of_300_kib_is_too_large_and_one_of_256_is_not(world: RestWorld) -> None:
    await world.enrolled()
    before = await world.everything()
    problem = problem_of(await world.submit(manifest("x" * 300 * 1024), key="k"), 413, "too_large")
    assert f"allowed are {MANIFEST_BYTES_MAX}" in problem["detail"]
    assert await world.everything() == before
    head = manifest(SHELL_BLOCK)
    answer = await world.submit(head + b"x" * (MANIFEST_BYTES_MAX - len(head)), key="k")
    assert answer.status_code == 201
    assert len((await world.job(answer.json()["job"]["id"]))["bodyMd"]) == MANIFEST_BYTES_MAX - len(head) + len(
        SHELL_BLOCK
    )


async def chunks(total: int, size: int = 64 * 1024) -> AsyncIterator[bytes]:
    for _ in range(0, total, size):
        yield b"x" * size


@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch"])
@in_virtual_time
async def test_a_request_over_the_bound_is_broken_off_while_it_arrives(world: RestWorld, path: str) -> None:
    """Chunked, so no header tells the length; as JSON the framework reads it, as markdown the route does."""
    await world.enrolled()
    before = await world.everything()
    pulled = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal pulled
        async for chunk in chunks(64 * 1024 * 1024):
            pulled += len(chunk)
            yield chunk

    for kind in ("application/json", "text/markdown"):
        pulled = 0
        answer = await world.post(path, world.ann, content=endless(), headers={"content-type": kind})
        problem = problem_of(answer, 413, "too_large")
        assert str(BODY_BYTES_MAX) in problem["detail"]
        assert pulled <= BODY_BYTES_MAX + 128 * 1024
    assert await world.everything() == before


@in_virtual_time
async def test_a_declared_length_is_not_believed(world: RestWorld) -> None:
    await world.enrolled()
    headers = {"content-type": "application/json", "content-length": "10"}
    answer = await world.post("/jobs/batch", world.ann, content=chunks(3 * 1024 * 1024), headers=headers)
    problem_of(answer, 413, "too_large")


@in_virtual_time
async def test_a_chunked_manifest_is_taken(world: RestWorld) -> None:
    await world.enrolled()

    async def parts() -> AsyncIterator[bytes]:
        yield b"---\nengine: "
        yield b"shell\n---\n" + SHELL_BLOCK.encode()

    answer = await world.post("/jobs", world.ann, content=parts(), headers={"content-type": "text/markdown"})
    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "this is no JSON"),
        (b"[]", "found"),
        (b'{"items": []}', "items"),
        (b'{"items": "x"}', "items"),
        (b'{"items": [{"idempotencyKey": "k"}]}', "body.items.0.manifest: found nothing; it is required"),
        (b'{"items": [{"manifest": 7}]}', "body.items.0.manifest: Input should be a valid string (found '7')"),
        (b'{"items": [{"manifest": "\\ud800"}]}', "this is no JSON"),
        (b'{"items": "\xff"}', "this is no JSON"),
        (b"[" * 5000, "this is no JSON"),
        (b"", "found nothing"),
    ],
)
@in_virtual_time
async def test_a_malformed_request_is_refused_with_its_place(world: RestWorld, content: bytes, words: str) -> None:
    await world.enrolled()
    answer = await world.post("/jobs/batch", world.ann, content=content, headers={"content-type": "application/json"})
    assert words in problem_of(answer, 422, "invalid_request")["detail"]


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"manifest": null}', b'{"manifest": "\\ud800"}'])
@in_virtual_time
async def test_a_malformed_json_submit_is_refused(world: RestWorld, content: bytes) -> None:
    await world.enrolled()
    answer = await world.post("/jobs", world.ann, content=content, headers={"content-type": "application/json"})
    problem_of(answer, 422, "invalid_request")


@in_virtual_time
async def test_a_key_of_no_or_too_many_characters_is_refused(world: RestWorld) -> None:
    await world.enrolled()
    for key in ("", "k" * 201):
        problem = problem_of(await world.submit(key=key), 422, "invalid_request")
        assert "Idempotency-Key" in problem["detail"]


def batch(*items: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"items": [{"manifest": manifest(**keys).decode(), "idempotencyKey": key} for key, keys in items]}


@in_virtual_time
async def test_a_batch_answers_each_item_in_order(world: RestWorld) -> None:
    await world.enrolled()
    body = batch(("c", {"deps": "[b]"}), ("bad", {"timeout": "soon"}), ("b", {"deps": "[a]"}), ("a", {}))
    body["items"].append({"manifest": manifest(deps="[bad]").decode(), "idempotencyKey": "d"})
    answer = await world.post("/jobs/batch", world.ann, json=body)
    assert answer.status_code == 200
    c, bad, b, a, d = answer.json()["items"]
    assert [one["job"]["stage"] for one in (a, b, c)] == ["queued", "blocked", "blocked"]
    assert c["job"]["deps"] == [b["job"]["id"]]
    assert set(bad) == {"error"}
    assert bad["error"]["code"] == "invalid_manifest"
    assert bad["error"]["detail"]["key"] == "timeout"
    assert d["error"]["detail"]["key"] == "deps"


@in_virtual_time
async def test_a_cycle_in_a_batch_is_named_and_takes_nobody_else_along(world: RestWorld) -> None:
    await world.enrolled()
    body = batch(("a", {"deps": "[b]", "title": "A"}), ("b", {"deps": "[a]", "title": "B"}), ("c", {"title": "C"}))
    a, b, c = (await world.post("/jobs/batch", world.ann, json=body)).json()["items"]
    for one in (a, b):
        assert one["error"]["code"] == "invalid_manifest"
        assert "cycle" in one["error"]["message"]
    assert "A -> B -> A" in a["error"]["message"] or "B -> A -> B" in a["error"]["message"]
    assert c["job"]["stage"] == "queued"
    assert (await world.get(f"/jobs/{job_id_for(PRODUCT, 'a')}", world.ann)).status_code == 404


@in_virtual_time
async def test_a_repeated_batch_is_answered_with_the_first_jobs(world: RestWorld) -> None:
    await world.enrolled()
    body = batch(("a", {}), ("b", {"deps": "[a]"}))
    first = (await world.post("/jobs/batch", world.ann, json=body)).json()["items"]
    again = (await world.post("/jobs/batch", world.ann, json=body)).json()["items"]
    assert [one["job"]["id"] for one in first] == [one["job"]["id"] for one in again]
    assert [one["repeated"] for one in again] == [True, True]


@in_virtual_time
async def test_a_batch_of_more_than_100_is_refused_whole(world: RestWorld) -> None:
    await world.enrolled()
    before = await world.everything()
    body = batch(*[(f"k{number}", {}) for number in range(101)])
    problem_of(await world.post("/jobs/batch", world.ann, json=body), 422, "invalid_request")
    assert await world.everything() == before


@in_virtual_time
async def test_a_submit_whose_outcome_is_not_known_is_unavailable_and_its_repeat_tells(tmp_path: Any) -> None:
    store = FaultyStore(MemoryStore())
    world = await RestWorld(tmp_path, store).enrolled()  # type: ignore[arg-type]
    store.script("commit", answer_lost, *[never_applied] * 99)
    store.script("read", *[passes_then_fails(store, number) for number in range(500)])
    answer = await world.submit(key="k")
    problem = problem_of(answer, 503, "unavailable")
    assert problem["definite"] is False
    assert answer.headers["retry-after"] == "1"
    store._scripts.clear()
    assert (await world.submit(key="k")).json()["repeated"] is True


def passes_then_fails(store: FaultyStore, number: int) -> Any:
    """Reads answer until the write was sent, and not afterwards."""

    async def step(call: Any) -> Any:
        return await (never_applied(call) if "commit" in store.calls else call())

    return step


@in_virtual_time
async def test_a_full_disk_is_said_and_nothing_is_left(tmp_path: Any) -> None:
    store = FaultyStore(MemoryStore())
    world = await RestWorld(tmp_path, store).enrolled()  # type: ignore[arg-type]

    async def full(call: Any) -> Any:
        raise StoreFull("the disk is full: nothing was written; make room and ask again")

    store.script("commit", full)
    problem = problem_of(await world.submit(key="k"), 503, "unavailable")
    assert "the disk is full" in problem["detail"]
    assert (await world.submit(key="k")).json()["repeated"] is False


@in_virtual_time
async def test_a_mistake_of_the_coordinators_own_is_a_problem_document_without_its_inside(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = FaultyStore(MemoryStore())
    world = await RestWorld(tmp_path, store).enrolled()  # type: ignore[arg-type]

    async def mistaken(call: Any) -> Any:
        raise KeyError("an inner secret")

    store.script("query", mistaken)
    answer = await world.get("/jobs", world.ann, raises=False)
    assert "secret" not in str(problem_of(answer, 500, "internal"))
    assert "an inner secret" in caplog.text
