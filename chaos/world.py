"""The fleet in one process on simulated time: from one seed come the work, the fleet and the faults, and the same
history each time. The code is the real one; the adapters are twins; processes are killed and stopped between any two
of their steps. When the faults are over the world must converge.

After the simulators of FoundationDB and TigerBeetle: production code, simulated time, one seed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from chaos.faults import begin
from chaos.finished import is_finished
from chaos.fleet import Fleet
from chaos.history import History
from chaos.machines import DriftingClock
from chaos.nodes import TIMERS
from chaos.plan import CALM_S, TTL_S, Act, FactoryPlan, Plan, plan_of
from chaos.processes import PROCESSES, Process, ProcessLoop
from chaos.recording import told_timers
from chaos.rest_client import Pace, RestClient
from chaos.wires import SimRestLink

CONVERGED_WITHIN_S = 900.0
LOOK_S = 2.0
SETTLES_S = 12.0  # in which what follows the last commit is projected and the last heartbeats are sent
CLIENTS_PACE = Pace(renew_s=7.0, margin_s=TTL_S / 10, works_s=(0.5, 5.0, 15.0, 40.0))
RAM_DISK = Path("/dev/shm")  # noqa: S108 -- where there is one: outboxes are written durably


@dataclass
class Ran:
    """One seed's run."""

    seed: int
    history: History
    faults: Counter[str] = field(default_factory=Counter)
    virtual_s: float = 0.0
    operations: int = 0


class World(Fleet):
    def _at(self, at_s: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.later(at_s - asyncio.get_running_loop().time(), lambda: self.operator.process.spawn(work()))

    async def run(self, converges_within_s: float) -> None:
        self._note_fleet()
        for coordinator in self.coordinators:
            coordinator.start()
        for factory in self.plan.factories:
            await self.operator.enrolls(factory)
            if factory.by_rest_alone:
                self._starts_rest_client(factory)
            else:
                self.factories[factory.id].start()
        for job in self.plan.jobs:
            self._at(job.at_s, partial(self.operator.submits, job))
        for act in self.plan.acts:
            self._at(act.at_s, partial(self.operator.acts, act))
        for fault in self.plan.faults:
            self.later(fault.at_s - asyncio.get_running_loop().time(), partial(begin, self, fault))
        await asyncio.sleep(CALM_S - asyncio.get_running_loop().time())
        self._calm()
        await self._converges(converges_within_s)
        self.history.documents = self.store.all_documents()

    def _starts_rest_client(self, plan: FactoryPlan) -> None:
        process = Process(f"factory:{plan.id}")
        self.lives_of_factories += 1
        client = RestClient(
            plan.id,
            plan.capabilities,
            link=SimRestLink(self.rest, process, process.name, self.ask_recorder),
            clock=DriftingClock(plan.skew_s, plan.drift),
            note=self.note,
            chance=random.Random(f"{self.plan.seed} {plan.id}"),
            life=self.lives_of_factories,
            pace=CLIENTS_PACE,
        )
        process.spawn(client.live())

    def _note_fleet(self) -> None:
        self.note("fleet", "world", timers=told_timers(TIMERS), budgets=self.plan.budgets)

    def _calm(self) -> None:
        """Whatever is broken still is mended: every process is up."""
        for coordinator in self.coordinators:
            coordinator.start()
        for factory in self.factories.values():
            factory.start(takeover=True)
        self.note("calm", "world")

    async def _converges(self, within_s: float) -> None:
        """People ship and approve what waits for them, until all that was acknowledged is finished."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + within_s
        for product in sorted({job.product_id for job in self.plan.jobs}) if self.plan.budgets else ():
            await self.operator.acts(Act(0.0, "resume", product))
        while loop.time() < end_s:
            await asyncio.sleep(LOOK_S)
            if await self._all_finished():
                await asyncio.sleep(SETTLES_S)
                self.note("converged", "world")
                return
        self.note("gave_up", "world", why=await self._unfinished())

    async def _all_finished(self) -> bool:
        if len(self.operator.acknowledged) < len(self.plan.jobs):
            return False
        finished = True
        for key in list(self.operator.acknowledged.values()):
            job = await self.job(key)
            stage = job["stage"] if job else "lost"
            waits_for = {"testing": "ship", "review": "approve"}.get(stage)
            if waits_for is not None:
                await self.operator.does(waits_for, key)
            if job is not None and stage == "blocked" and job["blockedReason"]["kind"] == "unpublished":
                await self.operator.does("requeue", key)
            blocked_for_good = stage == "blocked" and job is not None and job["blockedReason"]["kind"] == "dep_failed"
            if blocked_for_good:
                await self.operator.does("cancel", key)
            finished = finished and job is not None and is_finished(job)
        return finished

    async def _unfinished(self) -> str:
        stages = {}
        for key in self.operator.acknowledged.values():
            job = await self.job(key)
            if job is None or not is_finished(job):
                stages[key.job_id] = job["stage"] if job else "lost"
        missing = len(self.plan.jobs) - len(self.operator.acknowledged)
        return f"unfinished: {stages}, never acknowledged: {missing}"


def run_seed(seed: int) -> Ran:
    return run_plan(plan_of(seed))


def run_plan(plan: Plan, converges_within_s: float = CONVERGED_WITHIN_S) -> Ran:
    """In a loop and a folder of its own. What the dead leave is swept away unheard: they must not speak again."""
    unraisable = sys.unraisablehook
    logging.disable(logging.CRITICAL)
    gc.freeze()  # what there was before need not be looked at when this world is collected
    gc.disable()  # a dead process' tasks, collected on the way, would run their `finally`s
    try:
        return _ran(plan, converges_within_s)
    finally:
        sys.unraisablehook = lambda _: None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of coroutines that nobody awaited: who would have, is dead
            PROCESSES.clear()
            gc.enable()
            gc.collect()
            gc.unfreeze()
        sys.unraisablehook = unraisable
        logging.disable(logging.NOTSET)


def _ran(plan: Plan, converges_within_s: float) -> Ran:
    place = RAM_DISK if RAM_DISK.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place, prefix="gigafactory-chaos-") as folder:
        loop = ProcessLoop()
        loop.set_exception_handler(lambda _loop, _context: None)
        world = World(plan, Path(folder))
        loop.run_until_complete(world.run(converges_within_s))
        loop.close()
        operations = sum(1 for _ in world.history.of("asked"))
        return Ran(plan.seed, world.history, world.faults, loop.time(), operations)
