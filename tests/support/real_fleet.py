"""A fleet of real processes for tests: broker, coordinator, factories, and a repository that its jobs work on."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from console.client import Client, Target
from deploy.local.fleet import LocalFleet, LocalSettings
from deploy.local.secrets import Member
from tests.support.fleet import manifest
from tests.support.service import until
from tests.support.terms import git, make_repo

WITHIN_S = 60.0
MARK = "GIGAFACTORY_JOB"


@dataclass
class RealFleet:
    """Every job's shell script has $OUT, a folder outside its tree, in which it leaves traces."""

    local: LocalFleet
    client: Client
    data: Path
    repo: Path
    out: Path
    extra: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def submit(self, script: str, key: str = "one", **keys: Any) -> str:
        raw = manifest(f"```sh\nOUT='{self.out}'\n{script}\n```\n", repo=f'"{self.repo}"', verify='"true"', **keys)
        return str(self.client.submit(raw, key)["job"]["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get(f"/api/fleet/jobs/{job_id}")["job"]
        return found

    def holder(self, job_id: str) -> str:
        return str((self.job(job_id)["holder"] or {}).get("factoryId"))

    def until_stage(self, job_id: str, *stages: str) -> dict[str, Any]:
        until(lambda: self.job(job_id)["stage"] in stages, WITHIN_S, f"{job_id} in {stages}")
        return self.job(job_id)

    def until_in_session(self, *factory_ids: str) -> None:
        def said_hello() -> bool:
            rows = self.client.get("/api/fleet/factories")["factories"]
            return {row["id"] for row in rows if row["sessionNo"] > 0} >= set(factory_ids)

        until(said_hello, WITHIN_S, f"sessions of {factory_ids}")

    def cause(self, job_id: str, lease_epoch: int) -> str | None:
        """Why the coordinator ended that term."""
        events = self.client.get(f"/api/fleet/jobs/{job_id}/events?limit=500")["events"]
        reaped = (one for one in events if one["type"] == "reaped" and one["leaseEpoch"] == lease_epoch)
        return next((str(one["data"]["cause"]) for one in reaped), None)

    def ends(self, job_id: str) -> list[tuple[str, int]]:
        """How each term ended, in order."""
        events = self.client.get(f"/api/fleet/jobs/{job_id}/events", limit=500)["events"]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        kinds = ("reported", "released", "reaped")
        return [(event["type"], event["leaseEpoch"]) for event in events if event["type"] in kinds]

    def engines(self, job_id: str) -> list[int]:
        """Every living process that an engine or verification of the job started, whatever became of its parents."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == job_id and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
        return found

    def saw(self, name: str) -> list[str]:
        """The lines that jobs left in $OUT/name."""
        path = self.out / name
        return path.read_text().splitlines() if path.exists() else []

    def files(self, commit: str) -> set[str]:
        return set(git(self.repo, "ls-tree", "-r", "--name-only", commit).splitlines())

    def ref(self, job_id: str, lease_epoch: int) -> str:
        return git(self.repo, "for-each-ref", "--format=%(objectname)", f"refs/gigafactory/{job_id}/{lease_epoch}")

    def quarantine(self, factory_id: str) -> Path:
        return self.data / "factories" / factory_id / "work" / "quarantine"

    def another_process(self, factory_id: str, data: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """A further process of an enrolled factory; what it says is kept in the folder `data` in the file `said`."""
        data.mkdir(parents=True, exist_ok=True)
        secrets = self.local.secrets
        argv = [
            *(sys.executable, "-m", "factory", factory_id, "--data", str(data), "--url", self.local.url),
            *("--token-file", str(secrets.token_file(factory_id)), "--checkpoint-every", "1"),
            *("--bus-url", self.local.broker.url, "--bus-seed-file", str(secrets.seed_file(factory_id))),
            *arguments,
        ]
        with (data / "said").open("wb") as said:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        self.extra.append(process)
        return process


@contextlib.contextmanager
def real_fleet(folder: Path, *factories: str, seats: int = 1) -> Iterator[RealFleet]:
    """Leases last 10 s, so that what waits for one to run out is soon over."""
    data = folder / "fleet"
    settings = LocalSettings(
        data,
        port=0,
        bus_port=0,
        lease_ttl_s=10.0,
        checkpoint_every_s=1.0,
        members=tuple(Member(name, seats=seats) for name in factories),
    )
    local = LocalFleet(settings)
    local.start()
    (folder / "out").mkdir()
    repo = make_repo(folder / "repo")
    extra: list[subprocess.Popen[bytes]] = []
    try:
        with Client(Target(local.url, local.secrets.operator_token_file.read_text().strip(), "main")) as client:
            fleet = RealFleet(local, client, data, repo, folder / "out", extra)
            fleet.until_in_session(*factories)
            yield fleet
    finally:
        for process in extra:
            process.kill()
            process.wait()
        for child in local.factories.values():
            child.signal(signal.SIGCONT)
        local.stop()
