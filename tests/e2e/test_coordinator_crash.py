"""kill -9 in the middle of a burst: what was answered is there, whole, and goes on."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.support.fleet import manifest
from tests.support.service import Service, Tenants, serving, until

pytestmark = pytest.mark.xdist_group("processes")

FACTORIES = [f"f{number}" for number in range(4)]
ENOUGH = 60  # answers of each kind before the blow


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    tenants = Tenants()
    tenants.product("shop", FACTORIES)
    with serving(tmp_path, tenants) as service:
        yield service


class Burst:
    """Submits and claims from several threads, until the coordinator is gone; keeps what was answered."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._over = threading.Event()
        self.submitted: dict[str, str] = {}
        self.granted: dict[tuple[str, int], tuple[str, str]] = {}
        self.reported: dict[tuple[str, int], str] = {}

    def run(self) -> None:
        submitters = [f"s{number}" for number in range(3)]
        with ThreadPoolExecutor(len(submitters) + len(FACTORIES)) as pool:
            work = [pool.submit(self._submit, name) for name in submitters]
            work += [pool.submit(self._work, name) for name in FACTORIES]
            until(lambda: min(len(self.submitted), len(self.reported)) >= ENOUGH, 60.0, "enough answers")
            self._service.kill()
            self._over.set()
            for one in work:
                one.result()

    def _submit(self, name: str) -> None:
        with self._client(self._service.tenants.operators["shop"]) as client:
            for number in range(100_000):
                key = f"{name}-{number}"
                answer = self._asked(
                    client, "POST", "/api/fleet/jobs", content=manifest(), headers={"Idempotency-Key": key}
                )
                if answer is None:
                    return
                self.submitted[key] = answer["job"]["id"]

    def _work(self, name: str) -> None:
        """Each factory has one seat, so every other claim is left unreported for the restart to deal with."""
        with self._client(self._service.tenants.factories[name]) as client:
            for number in range(100_000):
                body = {"requestId": f"{name}-{number}", "engines": ["shell"]}
                answer = self._asked(client, "POST", "/api/fleet/claim", json=body)
                if answer is None:
                    return
                for grant in answer["grants"]:
                    term = (grant["jobId"], grant["leaseEpoch"])
                    self.granted[term] = (name, grant["requestId"])
                    body = {"leaseEpoch": term[1], "result": {"outcome": "ok"}}
                    done = self._asked(client, "PATCH", f"/api/fleet/jobs/{term[0]}", json=body)
                    if done is None:
                        return
                    self.reported[term] = done["report"]["stage"]

    def _client(self, token: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}", "x-product-id": "shop"}
        return httpx.Client(base_url=self._service.url, headers=headers, timeout=10.0, trust_env=False)

    def _asked(self, client: httpx.Client, method: str, path: str, **options: Any) -> dict[str, Any] | None:
        """None: not answered, so nothing is known of it."""
        if self._over.is_set():
            return None
        try:
            answer = client.request(method, path, **options)
        except httpx.HTTPError:
            return None
        assert answer.is_success, answer.text
        return dict(answer.json())


def every_job(service: Service) -> dict[str, dict[str, Any]]:
    found, cursor = {}, None
    while True:
        page = service.operator("shop").http.get(
            "/api/fleet/jobs", params={"limit": 200, **({"cursor": cursor} if cursor else {})}
        )
        found.update({job["id"]: job for job in page.json()["jobs"]})
        if (cursor := page.json()["nextCursor"]) is None:
            return found


def test_everything_that_was_answered_is_there_after_a_kill_and_goes_on(service: Service) -> None:
    burst = Burst(service)
    burst.run()
    service.start()

    operator, jobs = service.operator("shop"), every_job(service)
    assert set(burst.submitted.values()) <= set(jobs)
    for (job_id, _), stage in burst.reported.items():
        assert jobs[job_id]["stage"] == stage == "review"
    for job_id in jobs:
        grants = [event for event in operator.history(job_id) if event["type"] == "claimed"]  # gapless, or it fails
        assert len(grants) == len({event["leaseEpoch"] for event in grants})
    for (job_id, epoch), (name, _) in burst.granted.items():
        claimed = [event for event in operator.history(job_id) if event["type"] == "claimed"]
        assert (epoch, name) in [(event["leaseEpoch"], event["data"]["factoryId"]) for event in claimed]

    held = {job_id: job["holder"] for job_id, job in jobs.items() if job["holder"]}
    for job_id, holder in held.items():
        client = service.client(service.tenants.factories[holder["factoryId"]], "shop")
        renewed = client.post(f"/api/fleet/jobs/{job_id}/lease/renew", json={"leaseEpoch": jobs[job_id]["leaseEpoch"]})
        assert renewed.is_success, "the lease goes on"
        again = client.post("/api/fleet/claim", json={"requestId": holder["requestId"], "engines": ["shell"]})
        assert [grant["jobId"] for grant in again.json()["grants"]] == [job_id], "the repeat finds its grant"

    key = next(iter(burst.submitted))
    assert operator.submit(manifest(), key)["id"] == burst.submitted[key]
    waiting = [job for job in jobs.values() if job["stage"] == "queued"]
    gauge = f'gigafactory_jobs{{stage="queued"}} {len(waiting)}.0'
    assert gauge in operator.http.get("/metrics").text, "the index is rebuilt"


def test_a_held_job_of_a_killed_coordinator_is_finished_by_its_holder(service: Service) -> None:
    operator = service.operator("shop")
    job = operator.submit(manifest())
    factory = service.client(service.tenants.factories["f0"], "shop")
    (grant,) = factory.post("/api/fleet/claim", json={"requestId": "r1", "engines": ["shell"]}).json()["grants"]
    term = {"leaseEpoch": grant["leaseEpoch"]}
    assert factory.patch(f"/api/fleet/jobs/{job['id']}", json={**term, "stage": "building"}).is_success
    service.kill()
    with pytest.raises(httpx.HTTPError):
        factory.post(f"/api/fleet/jobs/{job['id']}/lease/renew", json=term)
    service.start()
    renewed = factory.post(f"/api/fleet/jobs/{job['id']}/lease/renew", json=term).json()
    assert renewed["stage"] == "building"
    assert renewed["term"]["leaseLeftS"] > 30
    done = factory.patch(f"/api/fleet/jobs/{job['id']}", json={**term, "result": {"outcome": "ok"}})
    assert done.json()["report"]["stage"] == "review"


def test_a_queued_job_is_claimed_after_a_restart_by_a_waiting_claim(service: Service) -> None:
    operator = service.operator("shop")
    job = operator.submit(manifest())
    service.kill()
    service.start()
    factory = service.client(service.tenants.factories["f0"], "shop")
    body = {"requestId": "r1", "engines": ["shell"], "waitS": 10}
    (grant,) = factory.post("/api/fleet/claim", json=body).json()["grants"]
    assert grant["jobId"] == job["id"]


def test_a_write_ahead_log_that_was_torn_costs_no_acknowledged_job(service: Service) -> None:
    """The tail of the log is cut as by a loss of power in the middle of a write that nobody was told of."""
    operator = service.operator("shop")
    ids = [operator.submit(manifest(), f"k{number}")["id"] for number in range(5)]
    service.kill()
    log = service.data / "fleet.db-wal"
    with log.open("ab") as file:
        file.write(b"\0torn" * 100)
    service.start()
    assert set(ids) <= set(every_job(service))
    service.terminate()
    with closing(sqlite3.connect(service.data / "fleet.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        stored = [orjson.loads(row[0])["id"] for row in db.execute("SELECT body FROM fleet_jobs")]
    assert set(ids) <= set(stored)
