"""How long a real fleet takes: submit to start over bus and REST, and from each kill to the next sign of life."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from chaos.percentiles import Percentiles
from console.client import Client, Target
from deploy.local.fleet import LocalFleet, LocalSettings
from deploy.local.secrets import Member

QUICK = "---\nengine: shell\nverify: 'true'\n---\n```sh\ntrue\n```\n"
LONG = (
    "---\nengine: shell\nrepo: {repo}\nverify: 'true'\n---\n"
    "```sh\nfor n in $(seq 1 60); do echo $n >> steps; sleep 0.5; done\n```\n"
)
WITHIN_S = 60.0
LOOK_S = 0.02


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(LOOK_S)


def _events(client: Client, job_id: str) -> dict[str, datetime]:
    """The moment of the last event of each type."""
    events = client.get(f"/api/fleet/jobs/{job_id}/events")["events"]
    return {event["type"]: datetime.fromisoformat(event["at"]) for event in events}


def _job(client: Client, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = client.get(f"/api/fleet/jobs/{job_id}")["job"]
    return job


def _transports(client: Client) -> set[str]:
    return {one["transport"] for one in client.get("/api/fleet/factories")["factories"]}


def submit_to_start(client: Client, what: str, jobs: int) -> Percentiles:
    """On an idle fleet: one job at a time."""
    times = []
    for _ in range(jobs):
        job_id = client.submit(QUICK.encode(), None)["job"]["id"]
        _until(lambda job_id=job_id: _job(client, job_id)["stage"] == "shipped")  # type: ignore[misc]
        at = _events(client, job_id)
        times.append((at["started"] - at["submitted"]).total_seconds())
    return Percentiles.of(what, times)


def broker_kill_to_rest_claim(fleet: LocalFleet, client: Client, rounds: int) -> Percentiles:
    times = []
    for _ in range(rounds):
        _until(lambda: _transports(client) == {"bus"})
        fleet.broker.kill()
        gone = datetime.now().astimezone()
        job_id = client.submit(QUICK.encode(), None)["job"]["id"]
        _until(lambda job_id=job_id: _job(client, job_id)["attempt"] > 0)  # type: ignore[misc]
        times.append((_events(client, job_id)["claimed"] - gone).total_seconds())
        fleet.broker.start()
    return Percentiles.of("broker kill -9 to first REST claim", times)


def factory_kill_to_next_start(fleet: LocalFleet, client: Client, repo: Path) -> Percentiles:
    job_id = client.submit(LONG.format(repo=repo).encode(), None)["job"]["id"]
    _until(lambda: _job(client, job_id)["stage"] == "building")
    victim = fleet.factories[_job(client, job_id)["holder"]["factoryId"]]
    victim.signal(signal.SIGKILL)
    gone = datetime.now().astimezone()
    victim.wait(5.0)
    _until(lambda: _job(client, job_id)["leaseEpoch"] > 1 and _job(client, job_id)["stage"] == "building")
    client.post(f"/api/fleet/jobs/{job_id}/actions/cancel", {}, "bench")
    return Percentiles.of(
        "factory kill -9 to its job's next start", [(_events(client, job_id)["started"] - gone).total_seconds()]
    )


def measure(jobs: int = 100) -> list[Percentiles]:
    with tempfile.TemporaryDirectory() as folder:
        repo = Path(folder) / "repo"
        subprocess.run(["git", "init", "--quiet", str(repo)], check=True)
        identity = ("-c", "user.name=bench", "-c", "user.email=bench@example.invalid")
        subprocess.run(
            ["git", "-C", str(repo), *identity, "commit", "--quiet", "--allow-empty", "-m", "empty"], check=True
        )
        settings = LocalSettings(
            Path(folder) / "fleet",
            port=0,
            bus_port=0,
            lease_ttl_s=10.0,
            members=(Member("bench-1", (), 2), Member("bench-2", (), 2)),
        )
        fleet = LocalFleet(settings)
        fleet.start()
        try:
            token = fleet.secrets.operator_token_file.read_text().strip()
            with Client(Target(fleet.url, token, settings.product_id)) as client:
                return _all(fleet, client, repo, jobs)
        finally:
            fleet.stop()


def _all(fleet: LocalFleet, client: Client, repo: Path, jobs: int) -> list[Percentiles]:
    _until(lambda: _transports(client) == {"bus"} and len(client.get("/api/fleet/factories")["factories"]) == 2)
    spreads = [submit_to_start(client, "submit to start, bus", jobs)]
    spreads.append(broker_kill_to_rest_claim(fleet, client, 5))
    _until(lambda: _transports(client) == {"bus"})
    fleet.broker.kill()
    _until(lambda: _transports(client) == {"rest"})
    spreads.append(submit_to_start(client, "submit to start, REST", jobs))
    fleet.broker.start()
    _until(lambda: _transports(client) == {"bus"})
    spreads.append(factory_kill_to_next_start(fleet, client, repo))
    return spreads
