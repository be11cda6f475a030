"""Events, their stream, runs and explanations of a job."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from coordinator.http.sse import KEEP_ALIVE_S
from coordinator.store.memory import MemoryStore
from coordinator.store.port import OPERATORS, Address, StoreError
from schemas.factory import OperatorDoc
from schemas.ids import JobKey
from tests.support.faulty import FaultyStore
from tests.support.fleet import PRODUCT
from tests.support.rest import RestWorld, Stream, problem_of
from tests.support.virtual import in_virtual_time

API = "/api/fleet/jobs"


async def settled(stream: Stream) -> list[tuple[str, str]]:
    await asyncio.sleep(0.1)
    return stream.events()


@in_virtual_time
async def test_events_are_paged_in_order_without_a_gap(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.reviewed(review=0)
    await world.post(f"/jobs/{job_id}/actions/ship", world.ann)
    whole = (await world.get(f"/jobs/{job_id}/events", world.ann)).json()
    assert whole["nextCursor"] is None
    assert [event["seq"] for event in whole["events"]] == [1, 2, 3, 4, 5]
    assert [(event["from"], event["to"]) for event in whole["events"]][:2] == [(None, "queued"), ("queued", "assigned")]
    found: list[int] = []
    cursor: int | None = 0
    while cursor is not None:
        page = (await world.get(f"/jobs/{job_id}/events?limit=2&cursor={cursor}", world.ann)).json()
        found += [event["seq"] for event in page["events"]]
        cursor = page["nextCursor"]
    assert found == [1, 2, 3, 4, 5]
    assert (await world.get(f"/jobs/{job_id}/events?cursor=5", world.ann)).json()["events"] == []


@pytest.mark.parametrize("number", ["-1", "x", "99999999999999999999999999"])
@in_virtual_time
async def test_a_wrong_number_is_refused_and_breaks_nothing(world: RestWorld, number: str) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    for question in ("events?cursor", "runs?cursor", "logs?offset", "logs?epoch"):
        answer = await world.get(f"/jobs/{job_id}/{question}={number}", world.ann)
        problem_of(answer, 422, "invalid_request")
    header = {"Last-Event-ID": number}
    problem_of(await world.get(f"/jobs/{job_id}/events/stream", world.ann, headers=header), 422, "invalid_request")


@in_virtual_time
async def test_a_stream_opens_with_its_mode_and_tells_each_event_once_as_it_happens(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    async with world.streamed(f"{API}/{job_id}/events/stream", world.ann) as stream:
        assert await settled(stream) == [("mode", ""), ("event", "1")]
        assert stream.status == 200
        assert 'data: {"mode":"live"}' in stream.text
        await world.claimed()
        assert (await settled(stream))[-1] == ("event", "2")
        await world.post(f"/jobs/{job_id}/actions/cancel", world.ann)
        assert await settled(stream) == [("mode", ""), ("event", "1"), ("event", "2"), ("event", "3")]


@in_virtual_time
async def test_a_stream_resumes_behind_the_last_event_id(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.reviewed()
    async with world.streamed(f"{API}/{job_id}/events/stream", world.ann, last_event_id="3") as stream:
        assert await settled(stream) == [("mode", ""), ("event", "4")]
        data = stream.text.split("data: ")[-1].split("\n")[0]
        assert orjson.loads(data)["type"] == "reported"


@in_virtual_time
async def test_a_silent_stream_is_kept_alive_every_15_s(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    async with world.streamed(f"{API}/{job_id}/events/stream", world.ann) as stream:
        await asyncio.sleep(KEEP_ALIVE_S - 1)
        assert ": alive" not in stream.text
        await asyncio.sleep(2)
        assert stream.text.count(": alive\n\n") == 1
        await asyncio.sleep(KEEP_ALIVE_S * 3)
        assert stream.text.count(": alive\n\n") == 4


@in_virtual_time
async def test_without_a_bus_among_several_coordinators_a_stream_polls_and_says_so(tmp_path: Path) -> None:
    store = MemoryStore()
    world = await RestWorld(tmp_path, store, alone=False).enrolled()
    other = RestWorld(tmp_path, store, alone=False)
    other.ann = world.ann
    job_id = await world.submitted()
    async with world.streamed(f"{API}/{job_id}/events/stream", world.ann) as stream:
        await settled(stream)
        assert 'data: {"mode":"polling"}' in stream.text
        await other.post(f"/jobs/{job_id}/actions/cancel", world.ann)
        await asyncio.sleep(1.1)
        assert stream.events()[-1] == ("event", "2")
        await asyncio.sleep(KEEP_ALIVE_S + 2)
        assert ": alive" in stream.text


@in_virtual_time
async def test_the_mode_is_told_anew_when_the_bus_comes_or_goes(tmp_path: Path) -> None:
    world = await RestWorld(tmp_path, alone=False).enrolled()
    job_id = await world.submitted()
    async with world.streamed(f"{API}/{job_id}/events/stream", world.ann) as stream:
        await settled(stream)
        for connected in (True, False):
            world.bus.connected = connected
            await asyncio.sleep(1.1)
        modes = [line for line in stream.text.splitlines() if "mode" in line and line.startswith("data")]
        assert modes == [f'data: {{"mode":"{mode}"}}' for mode in ("polling", "live", "polling")]


@in_virtual_time
async def test_a_revoked_token_hears_no_more(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    await world.claimed()
    async with world.streamed(f"{API}/{job_id}/events/stream", world.ann) as stream:
        logs = Stream(world.app, f"{API}/{job_id}/logs?follow=true", {"authorization": f"Bearer {world.ann}"})
        await settled(stream)
        stored = await world.store.read(Address(OPERATORS, PRODUCT, "ann"))
        assert stored is not None
        revoked = OperatorDoc.model_validate(stored.doc).model_copy(update={"token_hash": ""})
        assert (await world.store.update(OPERATORS, revoked.to_doc(), stored.etag)).ok
        seen = stream.events()
        await world.post(f"/jobs/{job_id}/actions/cancel", world.root, product=PRODUCT)
        await asyncio.sleep(1)
        assert stream.task.done()
        assert logs.task.done()
        assert stream.events() == seen


@in_virtual_time
async def test_a_stream_whose_store_fails_ends_and_can_be_resumed(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    world = await RestWorld(tmp_path, store).enrolled()  # type: ignore[arg-type]
    job_id = await world.submitted()

    async def broken(call: Any) -> Any:
        raise StoreError("scripted")

    async with world.streamed(f"{API}/{job_id}/events/stream", world.ann) as stream:
        await settled(stream)
        store.script("read", broken)
        world.watchers.changed(JobKey(PRODUCT, job_id))
        await asyncio.sleep(1)
        assert stream.task.done()
        assert stream.task.exception() is None
    async with world.streamed(f"{API}/{job_id}/events/stream", world.ann, last_event_id="1") as resumed:
        assert await settled(resumed) == [("mode", "")]


@in_virtual_time
async def test_listening_to_a_stream_is_no_sign_of_life(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    async with world.streamed(f"{API}/{job_id}/events/stream", world.f1) as stream:
        await asyncio.sleep(20)
        await world.post(f"/jobs/{job_id}/actions/cancel", world.ann)
        assert (await settled(stream))[-1] == ("event", "2")
        rows = (await world.get("/factories", world.ann)).json()["factories"]
        assert {row["id"]: row["health"] for row in rows}["f1"] == "down"


@in_virtual_time
async def test_who_hung_up_is_watched_for_no_more(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    async with world.streamed(f"{API}/{job_id}/events/stream", world.ann) as stream:
        await settled(stream)
        assert world.watchers._watchers
    assert not world.watchers._watchers


@in_virtual_time
async def test_runs_tell_each_term_with_why_this_factory(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted()
    await world.claimed(world.f1)
    await world.post(f"/jobs/{job_id}/lease/release", world.f1, json={"leaseEpoch": 1})
    await world.claimed(world.f2, "r2")
    body = {"leaseEpoch": 2, "result": {"outcome": "ok"}, "insights": {"tokensIn": 7, "costUsd": 0.5}}
    await world.patch(job_id, world.f2, body)
    page = (await world.get(f"/jobs/{job_id}/runs", world.ann)).json()
    one, two = page["runs"]
    assert page["nextCursor"] is None
    assert [(run["factoryId"], run["outcome"]) for run in (one, two)] == [("f1", "released"), ("f2", "ok")]
    assert two["insights"]["tokensIn"] == 7
    assert {"factoryId", "score", "terms"} <= set(two["choice"]["candidates"][0])
    assert two["choice"]["weightsVersion"] == "default-1"
    assert (await world.get(f"/jobs/{job_id}/runs?cursor=1", world.ann)).json()["runs"] == [two]


@in_virtual_time
async def test_explain_says_why_a_job_waits_and_what_would_start_it(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted(capabilities="[gpu]")
    for token in (world.f1, world.f2, world.x1):
        await world.post("/factories/hello", token, json={"sessionId": "s1", "sessionNo": 1, "engines": ["shell"]})
    told = (await world.get(f"/jobs/{job_id}/explain", world.ann)).json()
    assert told["reason"] == "No factory has the capability gpu."
    assert told["wouldStartIf"] == ["a factory with gpu joins"]
    assert {one["factoryId"] for one in told["candidates"]} == {"f1", "f2", "x1"}
    assert all(set(one["terms"]) >= {"capabilityFit", "load"} for one in told["candidates"])
    assert told["candidates"][0]["obstacles"][0]["filter"] == "capability"
    assert [event["seq"] for event in told["history"]] == [1]


@in_virtual_time
async def test_explain_of_a_held_and_of_a_finished_job(world: RestWorld) -> None:
    await world.enrolled()
    job_id = await world.submitted(review=0)
    await world.claimed()
    assert "held by f1, term 1" in (await world.get(f"/jobs/{job_id}/explain", world.ann)).json()["reason"]
    await world.patch(job_id, world.f1, {"leaseEpoch": 1, "result": {"outcome": "ok"}})
    assert "waits for a person to ship" in (await world.get(f"/jobs/{job_id}/explain", world.ann)).json()["reason"]
