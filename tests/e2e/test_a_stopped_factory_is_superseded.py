"""SIGSTOP to a factory past its lease, then SIGCONT: the zombie's engine is dead before its successor starts, and
what it does afterwards changes nothing."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from console.client import Client, Target
from deploy.local.fleet import LocalFleet, LocalSettings
from deploy.local.secrets import Member
from tests.support.fleet import manifest
from tests.support.waiting import eventually

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(180)]

BODY = """```sh
mkdir -p steps
for step in $(seq -w 1 16); do
  test -e "steps/$step" && continue
  echo "$GIGAFACTORY_EPOCH" > "steps/$step"
  sleep 0.5
done
```
"""


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    repo = tmp_path / "repo"
    subprocess.run(["git", "init", "--quiet", str(repo)], check=True)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    subprocess.run(["git", "-C", str(repo), *identity, "commit", "-q", "--allow-empty", "-m", "empty"], check=True)
    return repo


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[LocalFleet]:
    settings = LocalSettings(
        tmp_path / "fleet",
        port=0,
        bus_port=0,
        lease_ttl_s=10.0,
        checkpoint_every_s=1.0,
        members=(Member("f1"), Member("f2")),
    )
    fleet = LocalFleet(settings)
    fleet.start()
    yield fleet
    for factory in fleet.factories.values():
        factory.signal(signal.SIGCONT)
    fleet.stop()


def engines_of_term(epoch: int, job_id: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            env = process.environ()
        except (psutil.Error, OSError):
            continue
        if (env.get("GIGAFACTORY_JOB"), env.get("GIGAFACTORY_EPOCH")) == (job_id, str(epoch)):
            found.append(process.pid)
    return found


def git(repo: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", str(repo), *args], capture_output=True, text=True, check=True).stdout.strip()


async def test_a_zombie_neither_runs_beside_nor_reports_nor_pushes_over_its_successor(
    fleet: LocalFleet, repo: Path
) -> None:
    with Client(Target(fleet.url, fleet.secrets.operator_token_file.read_text().strip(), "main")) as client:
        await superseded(fleet, repo, client)


async def superseded(fleet: LocalFleet, repo: Path, client: Client) -> None:
    raw = manifest(BODY, repo=f'"{repo}"', verify='"true"')
    job_id = client.submit(raw, "k1")["job"]["id"]

    def job() -> dict[str, Any]:
        found: dict[str, Any] = client.get(f"/api/fleet/jobs/{job_id}")["job"]
        return found

    await eventually(lambda: job()["stage"] == "building" and job()["checkpoint"], within_s=30.0)
    zombie = fleet.factories[job()["holder"]["factoryId"]]
    assert engines_of_term(1, job_id)
    zombie.signal(signal.SIGSTOP)
    await eventually(lambda: job()["leaseEpoch"] == 2 and job()["stage"] == "building", within_s=60.0)
    assert engines_of_term(1, job_id) == []
    left = await asyncio.to_thread(git, repo, "rev-parse", f"refs/gigafactory/{job_id}/1")
    zombie.signal(signal.SIGCONT)
    await eventually(lambda: job()["stage"] == "shipped", within_s=60.0)
    kept = (
        fleet.secrets.operator_token_file.parents[1] / "factories" / zombie.name / "work" / "quarantine" / job_id / "1"
    )
    await eventually(kept.is_dir, within_s=30.0)
    assert job()["lastFactoryId"] != zombie.name
    assert await asyncio.to_thread(git, repo, "rev-parse", f"refs/gigafactory/{job_id}/1") == left
    events = client.get(f"/api/fleet/jobs/{job_id}/events")["events"]
    ends = [
        (event["type"], event["leaseEpoch"]) for event in events if event["type"] in ("reported", "reaped", "released")
    ]
    assert ends == [("reaped", 1), ("reported", 2)]
    steps = (await asyncio.to_thread(git, repo, "grep", "-h", "", job()["result"]["commit"], "--", "steps")).split()
    assert len(steps) == 16
    assert {"1", "2"} == set(steps), "the successor went on where the checkpoint was"
