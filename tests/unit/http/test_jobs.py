"""Lists, reads, operators' actions and reviews."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator.reads import jobs as routes
from tests.support.fleet import BODY, PRODUCT
from tests.support.rest import RestWorld, problem_of
from tests.support.virtual import in_virtual_time


async def pages(world: RestWorld, query: str = "") -> list[list[str]]:
    """The titles of every page, asked for until the cursor ends."""
    found, cursor = [], ""
    while True:
        answer = await world.get(f"/jobs?{query}{cursor}", world.ann)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found.append([job["title"] for job in page["jobs"]])
        if page["nextCursor"] is None:
            return found
        cursor = f"&cursor={page['nextCursor']}"


async def with_jobs(world: RestWorld, count: int, **keys: Any) -> None:
    await world.enrolled()
    for number in range(count):
        await world.submitted(f"k{number}", title=f"t{number}", **keys)
        await asyncio.sleep(1)


@in_virtual_time
async def test_a_list_is_newest_first_and_paged_without_a_gap_or_a_double(world: RestWorld) -> None:
    await with_jobs(world, 7)
    newest_first = [f"t{number}" for number in reversed(range(7))]
    assert await pages(world) == [newest_first]
    assert await pages(world, "limit=3&") == [newest_first[:3], newest_first[3:6], newest_first[6:]]
    assert await pages(world, "limit=7&") == [newest_first]
    assert await pages(world, "limit=1&") == [[title] for title in newest_first]


@in_virtual_time
async def test_what_is_submitted_while_paging_shifts_no_page(world: RestWorld) -> None:
    await with_jobs(world, 4)
    first = (await world.get("/jobs?limit=2", world.ann)).json()
    await world.submitted("late", title="late")
    second = (await world.get(f"/jobs?limit=2&cursor={first['nextCursor']}", world.ann)).json()
    assert [job["title"] for job in second["jobs"]] == ["t1", "t0"]


@in_virtual_time
async def test_filters_narrow_the_list_and_page_too(world: RestWorld) -> None:
    await with_jobs(world, 3)
    await world.submitted("g1", title="'Paint [red]'", capabilities="[gpu]")
    await asyncio.sleep(1)
    await world.submitted("g2", title="sand", capabilities="[gpu, python]")
    await world.submitted("waits", title="waits", deps="[g1]")
    assert await pages(world, "capability=gpu&") == [["sand", "Paint [red]"]]
    assert await pages(world, "capability=gpu&limit=1&") == [["sand"], ["Paint [red]"]]
    assert await pages(world, "q=PAINT&") == [["Paint [red]"]]
    assert await pages(world, "stage=blocked&") == [["waits"]]
    assert await pages(world, "stage=queued&capability=python&q=and&") == [["sand"]]
    assert await pages(world, "q=nothing-like-it&") == [[]]
    job_id = (await world.get("/jobs?q=sand", world.ann)).json()["jobs"][0]["id"]
    assert await pages(world, f"q={job_id}&") == [["sand"]]


@in_virtual_time
async def test_a_rare_find_is_looked_for_in_bounded_steps(world: RestWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "FILTERED_PAGE", 2)
    monkeypatch.setattr(routes, "PAGES_MAX", 2)
    await with_jobs(world, 11)
    found = await pages(world, "q=t0&")
    assert [title for page in found for title in page] == ["t0"]
    assert len(found) == 3


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "stage=sold", f"q={'x' * 201}", f"cursor={'x' * 201}"]
)
@in_virtual_time
async def test_a_wrong_question_is_refused_with_its_place(world: RestWorld, query: str) -> None:
    await world.enrolled()
    problem = problem_of(await world.get(f"/jobs?{query}", world.ann), 422, "invalid_request")
    assert problem["detail"].startswith(f"query.{query.split('=')[0]}: ")
    assert f"(found '{query.split('=')[1][:80]}" in problem["detail"]


@in_virtual_time
async def test_a_foreign_cursor_finds_a_page_and_breaks_nothing(world: RestWorld) -> None:
    await with_jobs(world, 2)
    assert (await world.get("/jobs?cursor=zzzz", world.ann)).status_code == 200
    assert (await world.get("/jobs?cursor=%00", world.ann)).json()["jobs"] == []


@in_virtual_time
async def test_a_row_is_without_the_manifest_and_a_job_is_with_it(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    (row,) = (await world.get("/jobs", world.ann)).json()["jobs"]
    for name in ("manifestSnapshot", "bodyMd", "outbox", "pendingEvents", "sortKey", "manifestSha256"):
        assert name not in row
    job = await world.job(job_id)
    assert set(job) == set(row) | {"manifestSnapshot", "bodyMd"}
    assert job["bodyMd"] == BODY


@pytest.mark.parametrize("job_id", ["nobody", "j" * 64])
@in_virtual_time
async def test_an_unknown_job_is_not_found(world: RestWorld, job_id: str) -> None:
    await world.enrolled()
    for path in ("", "/runs", "/events", "/explain", "/logs", "/events/stream"):
        problem_of(await world.get(f"/jobs/{job_id}{path}", world.ann), 404, "not_found")
    problem_of(await world.post(f"/jobs/{job_id}/actions/ship", world.ann), 404, "not_found")
    problem_of(await world.post(f"/jobs/{job_id}/review", world.ann, json={"verdict": "approve"}), 404, "not_found")


@pytest.mark.parametrize("job_id", ["ledger", "lock:x", "J1", "any", "j" * 65, "%2e%2e"])
@in_virtual_time
async def test_what_is_no_job_id_is_refused_or_not_found(world: RestWorld, job_id: str) -> None:
    await world.enrolled()
    answer = await world.get(f"/jobs/{job_id}", world.ann)
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"


@in_virtual_time
async def test_a_guard_is_no_job(tmp_path: Any) -> None:
    world = await RestWorld(tmp_path, budgets=True).enrolled()
    await world.submitted()
    for path in ("", "/runs", "/events", "/explain"):
        problem_of(await world.get(f"/jobs/ledger{path}", world.ann), 404, "not_found")
    assert len((await world.get("/jobs", world.ann)).json()["jobs"]) == 1


@in_virtual_time
async def test_an_action_under_one_key_takes_effect_once(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.reviewed()
    await world.post(f"/jobs/{job_id}/review", world.ann, json={"verdict": "approve"})
    first = await world.post(f"/jobs/{job_id}/actions/ship", world.ann, headers={"Idempotency-Key": "k"})
    again = await world.post(f"/jobs/{job_id}/actions/ship", world.ann, headers={"Idempotency-Key": "k"})
    assert (first.json()["repeated"], again.json()["repeated"]) == (False, True)
    assert first.json()["event"] == again.json()["event"]
    assert again.json()["job"]["stage"] == "shipped"
    other = await world.post(f"/jobs/{job_id}/actions/ship", world.ann, headers={"Idempotency-Key": "other"})
    assert "legal are" in problem_of(other, 409, "illegal_transition")["detail"]


@in_virtual_time
async def test_a_repeated_requeue_does_not_requeue_what_failed_again_meanwhile(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    key = {"Idempotency-Key": "again"}
    await world.post(f"/jobs/{job_id}/actions/cancel", world.ann)
    assert (await world.post(f"/jobs/{job_id}/actions/requeue", world.ann, headers=key)).json()["repeated"] is False
    await world.post(f"/jobs/{job_id}/actions/cancel", world.ann)
    repeated = (await world.post(f"/jobs/{job_id}/actions/requeue", world.ann, headers=key)).json()
    assert (repeated["repeated"], repeated["job"]["stage"]) == (True, "failed")


@in_virtual_time
async def test_each_action_leads_where_it_says_and_keeps_its_reason(world: RestWorld) -> None:
    await world.enrolled()

    async def act(job_id: str, action: str, **body: Any) -> str:
        answer = await world.post(f"/jobs/{job_id}/actions/{action}", world.ann, json={"reason": "so", **body})
        assert answer.status_code == 200, answer.text
        assert answer.json()["event"]["actor"] == "operator:ann"
        assert answer.json()["event"]["data"]["reason"] == "so"
        return str(answer.json()["job"]["stage"])

    testing = await world.reviewed("a", review=0)
    assert await act(testing, "requeue") == "queued"
    assert await act(testing, "cancel") == "failed"
    assert await act(testing, "requeue", checkpoint=saved()) == "queued"
    assert (await world.job(testing))["checkpoint"]["commit"] == "b" * 40
    assert await act(await world.reviewed("b", review=0), "reject") == "failed"
    assert await act(await world.reviewed("c", review=0), "ship") == "shipped"


def saved() -> dict[str, Any]:
    return {"ref": "refs/x", "commit": "b" * 40, "at": "2030-01-01T00:00:00Z"}


@in_virtual_time
async def test_an_illegal_transition_is_refused_with_what_is_legal_and_changes_nothing(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    before = await world.everything()
    for action in ("ship", "requeue", "reject"):
        problem = problem_of(await world.post(f"/jobs/{job_id}/actions/{action}", world.ann), 409, "illegal_transition")
        assert f"a job that is queued has no {action} by operator; legal are: " in problem["detail"]
        assert problem["extra"] == {"stage": "queued", "action": action}
    assert await world.everything() == before


@in_virtual_time
async def test_wrong_actions_are_refused_with_what_is_allowed(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    before = await world.everything()
    problem = problem_of(await world.post(f"/jobs/{job_id}/actions/explode", world.ann), 422, "invalid_request")
    assert "found action 'explode'" in problem["detail"]
    assert "ship, requeue, reject, cancel, preempt" in problem["detail"]
    problem = problem_of(await world.post(f"/jobs/{job_id}/actions/preempt", world.ann), 422, "invalid_request")
    assert "leaseEpoch" in problem["detail"]
    for body in ({"reason": 7}, {"reason": "x" * 4001}, {"leaseEpoch": 0}, {"checkpoint": {"ref": "x"}}, [], "x"):
        answer = await world.post(f"/jobs/{job_id}/actions/cancel", world.ann, json=body)
        assert "body" in problem_of(answer, 422, "invalid_request")["detail"]
    assert await world.everything() == before


@in_virtual_time
async def test_a_preempt_tells_the_holder_of_the_named_term_only(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    grant = await world.claimed()
    wrong = await world.post(f"/jobs/{job_id}/actions/preempt", world.ann, json={"leaseEpoch": 5})
    problem_of(wrong, 409, "fenced")
    told = await world.post(
        f"/jobs/{job_id}/actions/preempt", world.ann, json={"leaseEpoch": grant["leaseEpoch"], "reason": "urgent"}
    )
    assert told.json()["job"]["stop"]["kind"] == "preempt"
    assert told.json()["job"]["leaseEpoch"] == grant["leaseEpoch"]


@in_virtual_time
async def test_a_review_needs_as_many_people_as_the_manifest_says(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.reviewed(review=2)
    path = f"/jobs/{job_id}/review"
    first = (await world.post(path, world.ann, json={"verdict": "approve"}, headers={"Idempotency-Key": "k"})).json()
    assert (first["job"]["stage"], first["job"]["approvals"]) == ("review", ["operator:ann"])
    same = (await world.post(path, world.ann, json={"verdict": "approve"}, headers={"Idempotency-Key": "k"})).json()
    assert same["repeated"] is True
    problem_of(await world.post(path, world.ann, json={"verdict": "approve"}), 409, "conflict")
    second = await world.post(path, world.root, json={"verdict": "approve"}, product=PRODUCT)
    assert second.json()["job"]["stage"] == "testing"


@pytest.mark.parametrize(("verdict", "stage"), [("request_changes", "queued"), ("reject", "failed")])
@in_virtual_time
async def test_a_review_may_ask_for_changes_or_reject(world: RestWorld, verdict: str, stage: str) -> None:
    await world.enrolled()
    job_id = await world.reviewed()
    answer = await world.post(f"/jobs/{job_id}/review", world.ann, json={"verdict": verdict, "reason": "no tests"})
    assert answer.json()["job"]["stage"] == stage
    assert answer.json()["event"]["data"]["reason"] == "no tests"


@in_virtual_time
async def test_a_review_of_what_is_not_under_review_is_illegal(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    answer = await world.post(f"/jobs/{job_id}/review", world.ann, json={"verdict": "approve"})
    problem_of(answer, 409, "illegal_transition")
    answer = await world.post(f"/jobs/{job_id}/review", world.ann, json={"verdict": "perfect"})
    assert "'approve', 'request_changes' or 'reject'" in problem_of(answer, 422, "invalid_request")["detail"]
