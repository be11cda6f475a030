"""Two real coordinator processes on one Cosmos server: one winner per job, and nothing is lost with either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from chaos.live.cosmos_server import CosmosServer, HttpFault
from tests.support.fleet import manifest
from tests.support.processes import CoordinatorProcess, Enrolled
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("processes")

Pair = tuple[CoordinatorProcess, CoordinatorProcess]
CLAIMERS = [f"f{number}" for number in range(12)]


@pytest.fixture
async def pair(cosmos_server: CosmosServer, tmp_path: Path) -> AsyncIterator[Pair]:
    enrolled = Enrolled(tmp_path, CLAIMERS)
    env = {
        "COSMOS_ENDPOINT": cosmos_server.endpoint,
        "COSMOS_KEY": cosmos_server.key,
        "COSMOS_DATABASE": f"test-{uuid4().hex}",
    }
    pair = tuple(CoordinatorProcess(tmp_path, enrolled, "--store", "cosmos", env=env, name=name) for name in "ab")
    for coordinator in pair:
        await coordinator.start()
    yield pair  # type: ignore[misc]
    await cosmos_server.fault([])
    for coordinator in pair:
        coordinator.end()


async def test_concurrent_claims_over_two_processes_have_one_winner(
    pair: Pair,
) -> None:
    job = await pair[0].submit(manifest(), "one")

    async def claim(number: int) -> int:
        name, ask = (
            CLAIMERS[number],
            {"requestId": f"r{number}", "productId": "shop", "jobId": job["id"], "engines": ["shell"]},
        )
        token = pair[0].enrolled.factories[name]
        answer = await pair[number % 2].ask("POST", "/api/fleet/claim", token, json=ask)
        return answer.status_code

    statuses = await asyncio.gather(*(claim(number) for number in range(len(CLAIMERS))))
    assert sorted(statuses) == [200, *[409] * (len(CLAIMERS) - 1)]
    for coordinator in pair:
        assert [event["type"] for event in await coordinator.history(job["id"])] == ["submitted", "claimed"]


async def test_a_coordinator_killed_between_commit_and_event_leaves_no_gap(
    cosmos_server: CosmosServer, pair: Pair
) -> None:
    first, second = pair
    job = await first.submit(manifest(), "one")
    await cosmos_server.fault([HttpFault(r"POST .*/colls/fleet_events/docs", "hang", 1000)])
    token = first.enrolled.factories["f0"]
    body = {"requestId": "r1", "productId": "shop", "jobId": job["id"], "engines": ["shell"]}
    asking = asyncio.create_task(first.ask("POST", "/api/fleet/claim", token, json=body))

    async def committed() -> bool:
        seen = await second.ask("GET", f"/api/fleet/jobs/{job['id']}", second.enrolled.operator)
        return bool(seen.json()["job"]["stage"] == "assigned")

    await eventually(committed, within_s=20.0)
    first.kill()
    await asyncio.gather(asking, return_exceptions=True)
    await cosmos_server.fault([])  # queries are POSTs to the same place, so only now can the history be asked for
    assert [event["seq"] for event in await second.history(job["id"])] == [1, 2]

    async def swept() -> bool:
        runs = await second.ask("GET", f"/api/fleet/jobs/{job['id']}/runs", second.enrolled.operator)
        return [run["factoryId"] for run in runs.json()["runs"]] == ["f0"]

    await eventually(swept, within_s=30.0)
    again = await second.ask("POST", "/api/fleet/claim", token, json=body)
    assert [grant["leaseEpoch"] for grant in again.json()["grants"]] == [1]
    assert [event["type"] for event in await second.history(job["id"])] == ["submitted", "claimed"]


async def test_a_job_submitted_at_one_coordinator_is_had_by_a_long_poll_at_the_other_without_a_bus(
    pair: Pair,
) -> None:
    token = pair[0].enrolled.factories["f1"]
    waiting = asyncio.create_task(
        pair[1].ask("POST", "/api/fleet/claim", token, json={"requestId": "r1", "waitS": 15, "engines": ["shell"]})
    )
    job = await pair[0].submit(manifest(), "one")
    answer = (await waiting).json()
    assert [grant["jobId"] for grant in answer["grants"]] == [job["id"]]
