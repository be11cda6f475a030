"""The service's own answers: alive, ready, metrics, and what is no route at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordinator.store.memory import MemoryStore
from coordinator.store.port import StoreError
from tests.support.faulty import FaultyStore
from tests.support.rest import RestWorld, problem_of
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_the_process_says_that_it_lives_to_anybody(world: RestWorld) -> None:
    answer = await world.ask("GET", "/healthz", None)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@in_virtual_time
async def test_without_a_bus_it_is_ready_and_degraded(world: RestWorld) -> None:
    answer = await world.ask("GET", "/readyz", None)
    assert answer.status_code == 200
    assert answer.json() == {"status": "degraded", "store": "ok", "bus": "unavailable: REST only"}


@in_virtual_time
async def test_with_store_and_bus_it_is_ready(world: RestWorld) -> None:
    world.bus.connected = True
    assert (await world.ask("GET", "/readyz", None)).json() == {"status": "ok", "store": "ok", "bus": "ok"}


@in_virtual_time
async def test_without_the_store_it_is_not_ready_and_says_why(tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    world = RestWorld(tmp_path, store)  # type: ignore[arg-type]

    async def gone(call: Any) -> Any:
        raise StoreError("the disk is gone")

    store.script("partitions", gone)
    answer = await world.ask("GET", "/readyz", None)
    assert answer.status_code == 503
    assert answer.json()["store"] == "unavailable: the disk is gone"
    assert answer.json()["status"] == "unavailable"
    assert (await world.ask("GET", "/healthz", None)).status_code == 200


@in_virtual_time
async def test_metrics_count_jobs_factories_and_transitions(world: RestWorld) -> None:
    await world.enrolled()
    await world.submitted("one")
    await world.submitted("two")
    await world.claimed()
    answer = await world.ask("GET", "/metrics", world.f1)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    for line in (
        'gigafactory_jobs{stage="queued"} 1.0',
        'gigafactory_jobs{stage="assigned"} 1.0',
        'gigafactory_factories{health="healthy"} 1.0',
        'gigafactory_factories{health="down"} 3.0',
        'gigafactory_events_total{type="submitted"} 2.0',
        'gigafactory_events_total{type="claimed"} 1.0',
        "gigafactory_bus_connected 0.0",
        "gigafactory_bus_refused_total 0.0",
        "gigafactory_bus_dropped_total 0.0",
        "gigafactory_offers_total 0.0",
    ):
        assert line in lines


@pytest.mark.parametrize("path", ["/", "/api/fleet", "/api/fleet/nothing", "/api/fleet/jobs/j1/nothing", "/api/jobs"])
@in_virtual_time
async def test_what_is_no_route_is_a_problem_document(world: RestWorld, path: str) -> None:
    await world.enrolled()
    assert path in problem_of(await world.ask("GET", path, world.ann), 404, "not_found")["detail"]


@in_virtual_time
async def test_a_wrong_method_is_told_with_the_right_ones(world: RestWorld) -> None:
    await world.enrolled()
    answer = await world.ask("DELETE", "/healthz", world.ann)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "invalid_request"
