"""The demo: real jobs on real repositories across two factories, while one is killed and the broker is taken away.

Exit code 0 only if every job shipped, none was held twice, and what was taken away was lived without.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from console import view
from console.client import Client, Target
from deploy.local.fleet import LocalFleet, LocalFleetError, LocalSettings
from deploy.local.secrets import Member
from deploy.local.verdict import Verdict, judge

ROOT = Path(__file__).resolve().parents[2]
JOBS = Path(__file__).with_name("demo_jobs")
DATA = Path(".demo")
LEASE_TTL_S = 10.0
OUTAGE_S = 4.0
WITHIN_S = 85.0
LOOK_S = 0.15
MEMBERS = (Member("builder-1", ("python",), 2), Member("builder-2", ("python", "docs"), 2))
OUTAGE_JOBS = ("13-during-outage-a.md", "14-during-outage-b.md")
LONG_JOB = "long"
NOBODY_CAN = "90-nobody-can.md"


class DemoFailed(Exception):
    """What was not so."""


class Progress:
    """A live table on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, refresh_per_second=8) if self._console.is_terminal else None
        self._stages: dict[str, str] = {}
        self._began = time.monotonic()

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        (self._live.console if self._live else self._console).print(f"[{time.monotonic() - self._began:5.1f}s] {text}")

    def show(self, jobs: list[dict[str, Any]]) -> None:
        for job in jobs:
            if self._live is None and self._stages.get(job["id"]) != job["stage"]:
                holder = (job.get("holder") or {}).get("factoryId", "")
                self.say(f"{job['stage']:<9} {job['title']} {holder}")
            self._stages[job["id"]] = job["stage"]
        if self._live is not None:
            table = Table(box=None)
            for column in view.JOB_COLUMNS[1:]:
                table.add_column(column)
            for job in jobs:
                row = view.job_row(job)
                table.add_row(f"[{view.BADGES.get(row[1], 'white')}]{row[1]}[/]", *row[2:])
            self._live.update(table)


class Demo:
    def __init__(self, fleet: LocalFleet, client: Client, progress: Progress) -> None:
        self._fleet = fleet
        self._client = client
        self._progress = progress
        self._deadline = time.monotonic() + WITHIN_S
        self._ids: list[str] = []
        self.transports: set[str] = set()

    def run(self) -> Verdict:
        names = sorted(path.name for path in JOBS.glob("*.md"))
        self._submit([name for name in names if name not in (*OUTAGE_JOBS, NOBODY_CAN)])
        self._kill_a_holder()
        self._take_the_broker_away()
        self._until("every job is shipped", lambda: all(job["stage"] == "shipped" for job in self._look()))
        self._explain_what_nobody_can()
        histories = [self._client.get(f"/api/fleet/jobs/{one}/events", limit=500)["events"] for one in self._ids]
        return judge(histories)

    def _submit(self, names: list[str]) -> None:
        items = [{"manifest": _manifest(name), "idempotencyKey": None} for name in names]
        answers = self._client.post("/api/fleet/jobs/batch", {"items": items}, "demo")["items"]
        for name, answer in zip(names, answers, strict=True):
            if "error" in answer:
                raise DemoFailed(f"{name} was refused: {answer['error']['message']}")
            self._ids.append(answer["job"]["id"])
        self._progress.say(f"{len(names)} jobs submitted")

    def _kill_a_holder(self) -> None:
        """SIGKILL to the factory that holds the long job, once there is a checkpoint; the other one goes on."""
        long_job = self._long_job_with_checkpoint()
        victim = self._fleet.factories[long_job["holder"]["factoryId"]]
        commit = long_job["checkpoint"]["commit"]
        self._progress.say(f"SIGKILL to {victim.name}, which holds '{long_job['title']}' at checkpoint {commit[:12]}")
        victim.signal(signal.SIGKILL)
        victim.wait(5.0)

        def resumed() -> bool:
            job = self._job(long_job["id"])
            return job["leaseEpoch"] > long_job["leaseEpoch"] and job["stage"] in ("building", "shipped")

        self._until("the other factory goes on with it", resumed)
        job = self._job(long_job["id"])
        holder = (job["holder"] or {}).get("factoryId") or job["lastFactoryId"]
        self._progress.say(f"{holder} goes on with it in term {job['leaseEpoch']}")
        if holder == victim.name:
            raise DemoFailed(f"{holder} was dead and cannot hold the job")
        self._until("its log tells where it went on", lambda: "going on after" in self._log(job))
        if "going on after 0 steps" in self._log(job):
            raise DemoFailed("the work began anew: the checkpoint was not used")
        victim.start()
        self._progress.say(f"{victim.name} starts again, in a new session")

    def _long_job_with_checkpoint(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def there() -> bool:
            for job in self._look():
                if job["idempotencyKey"] == LONG_JOB and job["checkpoint"] and job["stage"] == "building":
                    found.append(job)
            return bool(found)

        self._until("the long job has a checkpoint", there)
        return found[0]

    def _take_the_broker_away(self) -> None:
        self._until("both factories are on the bus", lambda: self._transports() == {"bus"})
        self._progress.say("SIGKILL to nats-server: everything goes over REST now")
        self._fleet.broker.kill()
        gone_at = time.monotonic()
        before = len(self._ids)
        self._submit(list(OUTAGE_JOBS))
        outage = self._ids[before:]

        def claimed() -> bool:
            self._look()
            return all(self._job(one)["attempt"] > 0 for one in outage)

        self._until("jobs are claimed over REST", claimed)
        self._until("the factories say that they use REST", lambda: "rest" in self._transports())
        time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - gone_at)))
        self._fleet.broker.start()
        self._progress.say("nats-server is back")
        self._until("both factories are back on the bus", lambda: self._transports() == {"bus"})

    def _explain_what_nobody_can(self) -> None:
        answer = self._client.submit(_manifest(NOBODY_CAN).encode(), "nobody-can")
        job_id = answer["job"]["id"]
        reason = self._client.get(f"/api/fleet/jobs/{job_id}/explain")["reason"]
        self._progress.say(f"explain: {reason}")
        if "engine devin" not in reason:
            raise DemoFailed(f"explain should have named the engine that nobody offers, but said: {reason}")
        done = self._client.post(f"/api/fleet/jobs/{job_id}/actions/cancel", {"reason": "demo"}, "cancel-nobody-can")
        self._progress.say(f"cancelled: {done['job']['stage']}")

    def _until(self, what: str, is_so: Callable[[], bool]) -> None:
        while not is_so():
            if time.monotonic() > self._deadline:
                raise DemoFailed(f"not in time: {what}")
            for child in self._fleet.children():
                if child.exit_code not in (None, -signal.SIGKILL):
                    raise DemoFailed(f"{child.name} ended by itself: {child.last_words()}")
            self._look()
            time.sleep(LOOK_S)

    def _look(self) -> list[dict[str, Any]]:
        jobs = [self._job(one) for one in self._ids]
        self._progress.show(jobs)
        return jobs

    def _job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self._client.get(f"/api/fleet/jobs/{job_id}")["job"]
        return job

    def _log(self, job: dict[str, Any]) -> str:
        return str(self._client.get(f"/api/fleet/jobs/{job['id']}/logs", epoch=job["leaseEpoch"])["text"])

    def _transports(self) -> set[str]:
        factories = self._client.get("/api/fleet/factories")["factories"]
        seen = {one["transport"] for one in factories if one["health"] == "healthy"}
        self.transports |= seen
        return seen if len(factories) == sum(one["health"] == "healthy" for one in factories) else set()


def _manifest(name: str) -> str:
    return (JOBS / name).read_text().replace("@REPOS@", str((DATA / "repos").resolve()))


def _prepare() -> None:
    shutil.rmtree(DATA, ignore_errors=True)
    for name in ("alpha", "beta", "gamma"):
        repo = DATA / "repos" / name
        repo.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(repo)], check=True)


def main() -> int:
    print(f"demo: two factories, lease TTL {LEASE_TTL_S:g} s, data in {DATA}/")  # noqa: T201
    _prepare()
    settings = LocalSettings(
        DATA.resolve() / "fleet",
        port=0,
        bus_port=0,
        lease_ttl_s=LEASE_TTL_S,
        checkpoint_every_s=1.0,
        members=MEMBERS,
        env={"PYTHON": sys.executable},
        pass_env=("PYTHON",),
    )
    fleet = LocalFleet(settings)
    try:
        fleet.start()
        token = fleet.secrets.operator_token_file.read_text().strip()
        with Progress() as progress, Client(Target(fleet.url, token, settings.product_id)) as client:
            demo = Demo(fleet, client, progress)
            verdict = demo.run()
    except (DemoFailed, LocalFleetError) as error:
        print(f"demo: FAILED: {error}; logs are in {DATA}/fleet/log")  # noqa: T201
        return 1
    finally:
        fleet.stop()
    transports = "+".join(sorted(demo.transports))
    print(  # noqa: T201
        f"demo: {verdict.finished}/{verdict.jobs} finished, {verdict.lost} lost, {verdict.double_held} double-held, "
        f"{verdict.recovered} recovered, transports: {transports}"
    )
    return 0 if verdict.good and demo.transports == {"bus", "rest"} else 1


if __name__ == "__main__":
    sys.exit(main())
