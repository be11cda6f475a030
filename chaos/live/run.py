"""A scenario from beginning to end: a fleet is made, worked and broken; then it must come to rest, and is read out."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.finished import is_finished
from chaos.history import History
from chaos.live.fleet import CAPABILITY, PRODUCT, LiveFleet, Shape
from chaos.live.people import LiveOperator, Work
from factory.git.environment import factory_env
from factory.link.port import Unanswered

CONVERGES_WITHIN_S = 90.0
SETTLES_S = 4.0  # in which what follows the last commit is projected
LOOK_S = 0.5

Say = Callable[[str], None]


@dataclass
class LiveRun:
    """`costs`: what a scenario counted beside the history, each with its name."""

    fleet: LiveFleet
    operator: LiveOperator
    work: Work
    say: Say
    costs: dict[str, int] = field(default_factory=dict)

    async def finished(self) -> bool:
        """Whether all that was acknowledged is."""
        with contextlib.suppress(Unanswered):
            rows = {row["id"]: row for row in await self.operator.jobs()}
            return all(job_id in rows and is_finished(rows[job_id]) for job_id in self.operator.acknowledged.values())
        return False

    async def until_finished(self, within_s: float) -> bool:
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            if await self.finished():
                return True
            await asyncio.sleep(LOOK_S)
        return False


@dataclass(frozen=True)
class Scenario:
    """`family`: the name by which it is asked for. `what`: in a sentence, for people."""

    family: str
    what: str
    shape: Shape
    play: Callable[[LiveRun], Awaitable[None]]

    @property
    def name(self) -> str:
        return self.family if self.shape.store == "cosmos" else f"{self.family} ({self.shape.store})"

    @property
    def slug(self) -> str:
        return f"{self.family}-{self.shape.store}"


@dataclass(frozen=True)
class Played:
    scenario: Scenario
    history: History
    costs: dict[str, int]
    seconds: float


async def played(scenario: Scenario, folder: Path, seed: int, say: Say) -> Played:
    """`folder`: where everything is kept; it must be new. Raises LiveError."""
    began_s = time.monotonic()
    fleet = LiveFleet(scenario.shape, folder, seed)
    operator: LiveOperator | None = None
    try:
        await fleet.start()
        operator = LiveOperator(fleet.url, fleet.operator_headers, PRODUCT, fleet.note)
        work = Work(operator, fleet.engines, str(_made_repo(folder / "repo.git")), CAPABILITY, seed)
        stage = LiveRun(fleet, operator, work, say)
        say(f"{scenario.name}: {scenario.what}")
        await scenario.play(stage)
        await _calmed(fleet)
        await _converged(stage)
        documents = await fleet.end_processes_and_read()
        history = fleet.history()
        history.documents = documents
        return Played(scenario, history, stage.costs, time.monotonic() - began_s)
    finally:
        if operator is not None:
            await operator.close()
        await fleet.stop()


def _made_repo(path: Path) -> Path:
    """Bare, with one commit."""
    subprocess.run(["git", "init", "--quiet", "--bare", str(path)], check=True, env=factory_env())
    tree = ["git", "-C", str(path), "commit-tree", "-m", "empty", "4b825dc642cb6eb9a060e54bf8d69288fbee4904"]
    subprocess.run(
        ["git", "-C", str(path), "hash-object", "-t", "tree", "-w", "/dev/null"],
        check=True, env=factory_env(), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    commit = subprocess.run(tree, check=True, env=factory_env(), capture_output=True, text=True).stdout.strip()
    subprocess.run(["git", "-C", str(path), "update-ref", "HEAD", commit], check=True, env=factory_env())
    return path


async def _calmed(fleet: LiveFleet) -> None:
    """Whatever is broken still is mended: every process is up."""
    for link in fleet.links:
        await link.mend()
    if not fleet.broker.running:
        fleet.broker.start()
    if fleet.shape.store == "cosmos":
        await fleet.cosmos.fault([])
    for node in fleet.nodes:
        if not node.up:
            await node.start()
    for machine in fleet.machines.values():
        if machine.stopped:
            machine.resume()
    for machine in fleet.machines.values():
        if machine.life and not machine.up:
            machine.start(takeover=True)
    fleet.note("calm", "world")


async def _converged(stage: LiveRun) -> None:
    if await stage.until_finished(CONVERGES_WITHIN_S):
        await asyncio.sleep(SETTLES_S)
        stage.fleet.note("converged", "world")
        return
    left = "nobody answered"
    with contextlib.suppress(Unanswered):
        rows = await stage.operator.jobs()
        left = str({row["id"]: row["stage"] for row in rows if not is_finished(row)})
    stage.fleet.note("gave_up", "world", why=f"unfinished: {left}")
