"""Claims over REST, and what a holder says of its term; a REST-only client without heartbeats among them."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from coordinator.handlers.budgets import set_paused
from coordinator.loops.reaper import Reaper
from tests.support.fleet import BODY, PRODUCT, SHELL_BLOCK, manifest
from tests.support.rest import BANK, SHELL, RestWorld, Stream, problem_of
from tests.support.virtual import in_virtual_time

COMMIT = "a" * 40
SAVED = {"number": 1, "ref": "refs/gigafactory/x/1", "commit": COMMIT}
OK = {"outcome": "ok"}


async def claim(world: RestWorld, token: str | None = None, **fields: Any) -> Any:
    return await world.post("/claim", token or world.f1, json={**SHELL, "requestId": "r1", **fields})


@in_virtual_time
async def test_a_rest_only_client_goes_from_claim_to_report_without_a_heartbeat(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    grant = await world.claimed()
    assert (grant["jobId"], grant["leaseEpoch"], grant["bodyMd"]) == (job_id, 1, BODY)
    assert grant["term"]["leaseLeftS"] == 60
    assert grant["term"]["startWithinS"] == 30
    started = (await world.patch(job_id, world.f1, {"leaseEpoch": 1, "stage": "building"})).json()
    assert (started["stage"], started["stop"]) == ("building", None)
    await asyncio.sleep(25)
    renewed = (await world.post(f"/jobs/{job_id}/lease/renew", world.f1, json={"leaseEpoch": 1})).json()
    assert renewed["term"]["leaseLeftS"] == pytest.approx(60)
    saved = await world.patch(job_id, world.f1, {"leaseEpoch": 1, "checkpoint": SAVED})
    assert saved.json()["stage"] == "building"
    done = await world.patch(job_id, world.f1, {"leaseEpoch": 1, "result": {**OK, "summary": "well"}})
    assert done.json()["report"] == {"v": 1, "stage": "review", "repeated": False}
    again = await world.patch(job_id, world.f1, {"leaseEpoch": 1, "result": {**OK, "summary": "well"}})
    assert again.json()["report"] == {"v": 1, "stage": "review", "repeated": True}
    job = await world.job(job_id)
    assert (job["stage"], job["checkpoint"]["commit"], job["result"]["summary"]) == ("review", COMMIT, "well")
    types = [one["type"] for one in (await world.get(f"/jobs/{job_id}/events", world.ann)).json()["events"]]
    assert types == ["submitted", "claimed", "started", "checkpointed", "reported"]


@in_virtual_time
async def test_a_repeated_claim_is_answered_with_the_same_grant_and_takes_no_second_job(world: RestWorld) -> None:
    await world.enrolled()
    await world.submitted("one")
    await world.submitted("two")
    first, again = await world.claimed(), await world.claimed()
    assert (first["jobId"], first["leaseEpoch"]) == (again["jobId"], again["leaseEpoch"])
    page = (await world.get("/jobs?stage=queued", world.ann)).json()
    assert len(page["jobs"]) == 1


@in_virtual_time
async def test_nothing_to_claim_says_why(world: RestWorld) -> None:
    await world.enrolled()
    answer = (await claim(world)).json()
    assert answer["grants"] == []
    assert "no job that this factory could run" in answer["reason"]


@in_virtual_time
async def test_a_waiting_claim_wakes_on_a_submit(world: RestWorld) -> None:
    await world.enrolled()
    asked_s = asyncio.get_running_loop().time()
    waiting = asyncio.create_task(claim(world, waitS=20))
    await asyncio.sleep(3)
    assert not waiting.done()
    job_id = await world.submitted()
    (grant,) = (await waiting).json()["grants"]
    assert grant["jobId"] == job_id
    assert asyncio.get_running_loop().time() - asked_s < 4


@in_virtual_time
async def test_a_waiting_claim_looks_past_what_others_took_and_goes_on_waiting(world: RestWorld) -> None:
    await world.enrolled()
    waiting = asyncio.create_task(claim(world, waitS=20))
    await asyncio.sleep(1)
    await world.submitted("of-gpu", capabilities="[gpu]")
    await asyncio.sleep(1)
    assert not waiting.done()
    job_id = await world.submitted("two")
    assert (await waiting).json()["grants"][0]["jobId"] == job_id


@pytest.mark.parametrize(("wait_s", "held_s"), [(0, 0), (7.5, 7.5), (60, 20)])
@in_virtual_time
async def test_a_waiting_claim_is_answered_empty_after_its_wait_or_20_s(
    world: RestWorld, wait_s: float, held_s: float
) -> None:
    await world.enrolled()
    asked_s = asyncio.get_running_loop().time()
    assert (await claim(world, waitS=wait_s)).json()["grants"] == []
    assert asyncio.get_running_loop().time() - asked_s == pytest.approx(held_s, abs=0.01)


@in_virtual_time
async def test_a_client_that_hung_up_takes_no_job_away(world: RestWorld) -> None:
    await world.enrolled()
    body = orjson.dumps({**SHELL, "requestId": "r1", "waitS": 20})
    headers = {"authorization": f"Bearer {world.f1}", "content-type": "application/json"}
    gone = Stream(world.app, "/api/fleet/claim", headers, "POST", body)
    await asyncio.sleep(1)
    await gone.hang_up()
    job_id = await world.submitted()
    await asyncio.sleep(25)
    assert (await world.job(job_id))["stage"] == "queued"
    assert (await world.claimed(world.f2))["jobId"] == job_id


@in_virtual_time
async def test_the_header_narrows_a_claim_to_one_product(world: RestWorld) -> None:
    await world.enrolled()
    await world.submitted()
    assert (await claim(world, world.x1, engines=["shell"])).json()["grants"]
    await world.submitted("two")
    narrowed = await world.post("/claim", world.x1, json={**SHELL, "requestId": "r2"}, product=BANK)
    assert narrowed.json()["grants"] == []
    problem_of(await world.post("/claim", world.f1, json={**SHELL, "requestId": "r3"}, product=BANK), 403, "forbidden")
    problem_of(await claim(world, productId=BANK), 403, "forbidden")
    differs = await world.post(
        "/claim", world.x1, json={**SHELL, "requestId": "r4", "productId": BANK}, product=PRODUCT
    )
    problem_of(differs, 409, "conflict")


@in_virtual_time
async def test_a_claim_by_id_says_why_not(world: RestWorld) -> None:
    await world.enrolled()
    gpu = await world.submitted("gpu", capabilities="[gpu]")
    problem = problem_of(await claim(world, jobId=gpu), 409, "no_capability")
    assert "lacks gpu" in problem["detail"]
    problem_of(await claim(world, jobId="nobody"), 404, "not_found")
    bobs = (await world.submit(token=world.bob, key="k")).json()["job"]["id"]
    problem_of(await claim(world, jobId=bobs), 404, "not_found")
    problem_of(await claim(world, jobId=bobs, productId=BANK), 403, "forbidden")
    taken = await world.submitted("taken")
    await world.claimed(world.f2, jobId=taken)
    problem_of(await claim(world, jobId=taken), 409, "conflict")


@in_virtual_time
async def test_a_paused_product_starts_nothing_new(tmp_path: Any) -> None:
    world = await RestWorld(tmp_path, budgets=True).enrolled()
    job_id = await world.submitted()
    await set_paused(world.ctx, PRODUCT, paused=True)
    problem_of(await claim(world, jobId=job_id), 409, "budget_paused")
    assert (await claim(world)).json()["grants"] == []
    await set_paused(world.ctx, PRODUCT, paused=False)
    assert (await claim(world)).json()["grants"]


WRONG_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"requestId": None}, "requestId"),
    ({"requestId": ""}, "requestId"),
    ({"requestId": "a b"}, "requestId"),
    ({"requestId": "r" * 65}, "requestId"),
    ({"max": 0}, "max"),
    ({"max": 10**30}, "max"),
    ({"waitS": -1}, "waitS"),
    ({"waitS": 61}, "waitS"),
    ({"waitS": "soon"}, "waitS: Input should be a valid number"),
    ({"engines": ["vim"]}, "'claude', 'codex', 'devin' or 'shell' (found 'vim')"),
    ({"capabilities": ["GPU"]}, "capabilities.0"),
    ({"productId": "My Shop"}, "productId"),
    ({"jobId": "../x"}, "jobId"),
    ({"sessionId": "S 1"}, "sessionId"),
    ({"v": 2}, "v"),
]


@pytest.mark.parametrize(("fields", "words"), WRONG_CLAIMS, ids=[str(number) for number in range(len(WRONG_CLAIMS))])
@in_virtual_time
async def test_a_wrong_claim_is_refused_with_its_place(world: RestWorld, fields: dict[str, Any], words: str) -> None:
    await world.enrolled()
    await world.submitted()
    before = await world.everything()
    problem = problem_of(await claim(world, **fields), 422, "invalid_request")
    assert problem["detail"].startswith("body.")
    assert words in problem["detail"]
    assert await world.everything() == before


@in_virtual_time
async def test_a_patch_says_exactly_one_thing(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    await world.claimed()
    before = await world.job(job_id)
    for body in (
        {},
        {"stage": "building", "checkpoint": SAVED},
        {"stage": "building", "result": OK},
        {"insights": {"tokensIn": 5}},
        {"stage": "shipped"},
        {"result": {"outcome": "great"}},
        {"result": OK, "insights": {"costUsd": -1}},
        {"checkpoint": {**SAVED, "commit": "HEAD"}},
        {"checkpoint": {**SAVED, "number": 0}},
        {"checkpoint": {"number": 1}},
        {"result": OK, "next": {}},
    ):
        answer = await world.patch(job_id, world.f1, {"leaseEpoch": 1, **body})
        assert "found" in problem_of(answer, 422, "invalid_request")["detail"], body
    problem_of(await world.patch(job_id, world.f1, {"stage": "building"}), 422, "invalid_request")
    problem_of(await world.patch(job_id, world.f1, {"leaseEpoch": "x", "stage": "building"}), 422, "invalid_request")
    assert await world.job(job_id) == before


async def each_word(world: RestWorld, job_id: str, token: str, epoch: int) -> list[Any]:
    """Everything that a holder can say of its term."""
    term = {"leaseEpoch": epoch}
    return [
        await world.patch(job_id, token, {**term, "stage": "building"}),
        await world.patch(job_id, token, {**term, "checkpoint": SAVED}),
        await world.patch(job_id, token, {**term, "result": OK}),
        await world.post(f"/jobs/{job_id}/lease/renew", token, json=term),
        await world.post(f"/jobs/{job_id}/lease/release", token, json=term),
        await world.post(f"/jobs/{job_id}/logs", token, json={**term, "offset": 0, "text": "x"}),
    ]


@pytest.mark.parametrize("epoch", [2, 7, 2**53])
@in_virtual_time
async def test_a_wrong_epoch_is_fenced_and_changes_nothing(world: RestWorld, epoch: int) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    await world.claimed()
    before = await world.job(job_id)
    for answer in await each_word(world, job_id, world.f1, epoch):
        problem_of(answer, 409, "fenced")
    assert await world.job(job_id) == before


@in_virtual_time
async def test_another_factorys_job_is_fenced_and_unchanged(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    await world.claimed(world.f1)
    before = await world.job(job_id)
    for answer in await each_word(world, job_id, world.f2, 1):
        problem_of(answer, 409, "fenced")
    assert await world.job(job_id) == before


@in_virtual_time
async def test_a_term_that_was_reaped_is_fenced_and_the_next_holder_goes_on_from_its_checkpoint(
    world: RestWorld,
) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    await world.claimed()
    await world.patch(job_id, world.f1, {"leaseEpoch": 1, "stage": "building"})
    await world.patch(job_id, world.f1, {"leaseEpoch": 1, "checkpoint": SAVED})
    await asyncio.sleep(63)
    assert await Reaper(world.ctx).run_once(world.ctx.clock.now()) == {"expired": 1}
    start, checkpoint, *others = await each_word(world, job_id, world.f1, 1)
    *others, log = others
    for answer in (start, checkpoint, *others):
        problem_of(answer, 409, "fenced")
    assert log.json()["heard"] == 1, "what it printed in its own term is no claim to the job"
    grant = await world.claimed(world.f2, "r2")
    assert (grant["leaseEpoch"], grant["checkpoint"]["commit"]) == (2, COMMIT)


@in_virtual_time
async def test_a_job_of_nobody_is_not_found(world: RestWorld) -> None:
    await world.enrolled()
    for answer in await each_word(world, "nobody", world.f1, 1):
        problem_of(answer, 404, "not_found")
    for answer in await each_word(world, "No..Body", world.f1, 1):
        assert "is no id" in problem_of(answer, 422, "invalid_request")["detail"]


@in_virtual_time
async def test_a_release_queues_the_job_with_its_reason_and_checkpoint(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    await world.claimed()
    body = {"leaseEpoch": 1, "reason": "going down", "checkpoint": {**SAVED, "local": True}}
    answer = await world.post(f"/jobs/{job_id}/lease/release", world.f1, json=body)
    assert answer.json() == {"v": 1, "stage": "queued", "repeated": False}
    job = await world.job(job_id)
    assert (job["stage"], job["result"]["summary"], job["checkpoint"]["local"]) == ("queued", "going down", "f1")
    assert (await claim(world, world.f2, requestId="r2")).json()["grants"] == []
    assert (await claim(world, world.f1, requestId="r2")).json()["grants"]


@in_virtual_time
async def test_a_release_names_no_outcome_of_a_report(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    await world.claimed()
    answer = await world.post(f"/jobs/{job_id}/lease/release", world.f1, json={"leaseEpoch": 1, "outcome": "ok"})
    problem_of(answer, 422, "invalid_request")
    assert (await world.job(job_id))["stage"] == "assigned"


@in_virtual_time
async def test_a_report_with_next_has_two_independent_answers(world: RestWorld) -> None:
    await world.enrolled()
    one, two = await world.submitted("one"), await world.submitted("two")
    await world.post("/factories/hello", world.f1, json={"sessionId": "s1", "sessionNo": 1, "engines": ["shell"]})
    grant = await world.claimed(jobId=one, sessionId="s1")
    term = {"leaseEpoch": grant["leaseEpoch"], "sessionId": "s1"}
    answer = (await world.patch(one, world.f1, {**term, "result": OK, "next": {"requestId": "r2"}})).json()
    assert (answer["report"]["stage"], answer["reportError"], answer["nextError"]) == ("review", None, None)
    assert [grant["jobId"] for grant in answer["next"]["grants"]] == [two]
    fenced = await world.patch(two, world.f1, {**term, "leaseEpoch": 9, "result": OK, "next": {"requestId": "r3"}})
    assert fenced.status_code == 200
    assert fenced.json()["reportError"]["code"] == "fenced"
    assert fenced.json()["next"] == {"v": 1, "grants": [], "reason": "all 1 seats of f1 are taken"}
    done = await world.patch(two, world.f1, {**term, "result": OK, "next": {"requestId": "r4"}})
    assert done.json()["report"]["stage"] == "review"
    assert done.json()["next"]["grants"] == []


@in_virtual_time
async def test_next_is_refused_to_an_older_session_while_its_report_counts(world: RestWorld) -> None:
    await world.enrolled()
    one = await world.submitted("one")
    await world.claimed()
    hello = {"sessionId": "s1", "sessionNo": 1, "engines": ["shell"]}
    report = {"leaseEpoch": 1, "result": OK, "next": {"requestId": "r2"}}
    assert (await world.patch(one, world.f1, report)).json()["report"]["stage"] == "review"
    assert (await world.post("/factories/hello", world.f1, json=hello)).json()["opened"] is True
    again = (await world.patch(one, world.f1, report)).json()
    assert again["report"] == {"v": 1, "stage": "review", "repeated": True}
    assert again["nextError"]["code"] == "fenced"


@in_virtual_time
async def test_a_stop_is_told_in_the_answer_to_a_renewal(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    await world.claimed()
    await world.post(f"/jobs/{job_id}/actions/cancel", world.ann, json={"reason": "enough"})
    answer = await world.post(f"/jobs/{job_id}/lease/renew", world.f1, json={"leaseEpoch": 1})
    stop = answer.json()["stop"]
    assert (stop["kind"], stop["reason"]) == ("cancel", "enough")
    assert 0 < stop["byS"] <= 30
    done = await world.post(f"/jobs/{job_id}/lease/release", world.f1, json={"leaseEpoch": 1, "outcome": "cancelled"})
    assert done.json()["stage"] == "failed"


@in_virtual_time
async def test_sessions_open_by_hello_and_live_by_heartbeats(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    asked = await world.post("/factories/hello", world.f1, json={"sessionId": "s1"})
    assert (asked.json()["opened"], asked.json()["sessionNo"]) == (False, 1)
    hello = {"sessionId": "s1", "sessionNo": 1, "engines": ["shell"], "capabilities": ["python", "gpu"]}
    opened = (await world.post("/factories/hello", world.f1, json=hello)).json()
    assert opened["opened"] is True
    assert opened["warnings"] == ["not enrolled for, and left out: gpu"]
    grant = await world.claimed(sessionId="s1", sessionNo=1)
    held = {"productId": PRODUCT, "jobId": job_id, "leaseEpoch": grant["leaseEpoch"]}
    beat = {"sessionId": "s1", "sessionNo": 1, "askNo": 5, "holding": [held, {**held, "jobId": "other"}]}
    mine, other = (await world.post("/factories/heartbeat", world.f1, json=beat)).json()["terms"]
    assert (mine["granted"], other["granted"]) == (True, False)
    old = {**beat, "sessionId": "s0", "sessionNo": 1}
    problem_of(await world.post("/factories/heartbeat", world.f1, json=old), 409, "fenced")
    rows = (await world.get("/factories", world.ann)).json()["factories"]
    assert {row["id"]: row["health"] for row in rows}["f1"] == "healthy"
    problem_of(await world.post("/factories/hello", world.f1, json={"sessionId": "rest"}), 422, "invalid_request")


@in_virtual_time
async def test_the_whole_of_a_long_body_is_in_the_grant(world: RestWorld) -> None:
    await world.enrolled()
    await world.submit(manifest(SHELL_BLOCK + "€" * 50_000), key="k")
    assert (await world.claimed())["bodyMd"] == SHELL_BLOCK + "€" * 50_000


@in_virtual_time
async def test_a_factory_is_told_which_jobs_ended_long_ago_and_of_no_others(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    running = await world.submitted(key="other")
    grant = await world.claimed()
    first, other = (job_id, running) if grant["jobId"] == job_id else (running, job_id)
    report = {"leaseEpoch": grant["leaseEpoch"], "result": {"outcome": "unrunnable", "summary": "no such ref"}}

    async def ended(for_s: float, *more: str) -> list[str]:
        body = {"jobIds": [first, other, "unheard-of", *more], "forS": for_s}
        answer = await world.post("/factories/ended-jobs", world.f1, json=body)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["jobIds"])

    assert await ended(0.0) == []
    reported = await world.patch(first, world.f1, report)
    assert reported.status_code == 200, reported.text
    assert await ended(0.0, first) == [first], "each once"
    assert await ended(100.0) == []
    await asyncio.sleep(100.0)
    assert await ended(100.0) == [first]
    many = {"jobIds": [f"j{number}" for number in range(101)], "forS": 1.0}
    problem_of(await world.post("/factories/ended-jobs", world.f1, json=many), 422, "invalid_request")


@in_virtual_time
async def test_a_requeue_takes_the_charge_back_and_the_grant_still_says_that_the_attempt_failed(
    world: RestWorld,
) -> None:
    """What a failed attempt named its branches must not be in the way of the next one, whoever asked for that."""
    await world.enrolled()
    await world.submit(manifest(SHELL_BLOCK, retries="0"), key="k")
    first = await world.claimed()
    assert first["retriesUsed"] == 0
    report = {"leaseEpoch": 1, "result": {"outcome": "engine_failed", "summary": "no"}}
    assert (await world.patch(first["jobId"], world.f1, report)).status_code == 200
    key = {"idempotency-key": "again"}
    asked = await world.post(f"/jobs/{first['jobId']}/actions/requeue", world.ann, headers=key)
    assert asked.status_code == 200, asked.text
    assert asked.json()["job"]["retries"]["used"] == 0
    assert (await world.claimed(request_id="r2"))["retriesUsed"] == 1
