"""One seed played: machines in processes of their own, a coordinator here, jobs on one source, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from bus.none import NoBus
from bus.server import free_port
from chaos.edges import truth
from chaos.edges.machine import Spec, live
from chaos.edges.plan import MACHINES, EdgePlan, Fault, JobPlan
from chaos.edges.sources import Source, make
from chaos.live.proxy import TcpProxy
from coordinator.assembly import Coordinator, assemble, running
from coordinator.handlers import actions, ended_jobs, enrolment, intake
from coordinator.inbox import OPS
from coordinator.store.job_history import read_history
from coordinator.store.memory import MemoryStore
from coordinator.store.queries import read_job
from coordinator.term_logs import LogFiles
from factory.surroundings.sandbox import Mode, missing
from runtime.clock import SystemClock
from runtime.entropy import Entropy
from runtime.settings import Timers
from schemas.errors import FleetError
from schemas.factory import FactoryDoc
from schemas.ids import JobKey
from schemas.job import Job, Stage
from schemas.messages import EndedRequest, LogChunk

PRODUCT = "edges"
WITHIN_S = 30.0
BROKEN_WITHIN_S = 10.0  # what is broken on purpose is not waited for as long
LOOK_S = 0.05
CUT_S = 0.4
REFUSES_S = 1.2
BACK_S = 0.2
DRAIN_WITHIN_S = 15.0
TIMERS = Timers.for_lease_ttl(30.0).with_values(promoter_s=0.1, sweeper_s=0.2, reaper_s=0.2)
CANARY = "canary-7f3a"
MARKS = ("GIGAFACTORY_TERM", "GIGAFACTORY_FACTORY")
FINISHED = (Stage.SHIPPED, Stage.FAILED, Stage.DEAD_LETTER)
Doc = dict[str, Any]


@cache
def forks() -> BaseContext:
    """A server that has imported everything: a machine's process costs a fork."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["chaos.edges.machine", "chaos.edges.mutations"])
    return context


@cache
def sandbox() -> Mode:
    return Mode.OFF if missing(Mode.VEIL) else Mode.VEIL


@dataclass(frozen=True)
class Said:
    """What a machine told of a term, or asked: `what` is begun, left, tidied, kept, report, release or checkpoint."""

    machine: str
    what: str
    told: Doc


@dataclass
class Played:
    """What is judged. `jobs`: by name, as they ended; `events` with them. `before`, `after`: the refs of the source."""

    plan: EdgePlan
    folder: Path
    source: Source | None
    ids: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    events: dict[str, list[Doc]] = field(default_factory=dict)
    said: list[Said] = field(default_factory=list)
    logs: Counter[str] = field(default_factory=Counter)
    texts: dict[tuple[str, int], str] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)
    bytes_before: dict[str, bytes] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    left_running: list[str] = field(default_factory=list)
    gave_up: str | None = None
    seconds: float = 0.0

    def machine_data(self, machine: str) -> Path:
        return self.folder / "machines" / machine


class Machine:
    """A machine and the lives of its factory. `serve` answers what it asks."""

    def __init__(self, world: World, name: str, seats: int) -> None:
        self.name = name
        self.full = 0
        self.lives = 0
        self._turn = asyncio.Lock()
        self._world = world
        self._seats = seats
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    @property
    def data(self) -> Path:
        return self._world.played.machine_data(self.name)

    def start(self) -> None:
        world = self._world
        self.lives += 1
        ours, theirs = multiprocessing.Pipe()
        secrets = self.data.parent / "secrets"
        source = world.played.source
        folders = (("/srv/work", str(source.path)),) if source is not None and source.kind == "folder" else ()
        spec = Spec(
            machine=self.name,
            data=str(self.data),
            seats=self._seats,
            capabilities=(),
            workspaces=folders,
            hidden=(str(secrets),),
            sandbox=str(sandbox()),
            environ=world.environ,
            full=self.full,
            mutation=world.mutation,
        )
        self.full = 0
        process = forks().Process(target=live, args=(spec, theirs), daemon=True)  # type: ignore[attr-defined]
        process.start()
        theirs.close()
        self._process, self._connection = process, ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._heard, ours)

    def _heard(self, connection: Connection) -> None:
        try:
            while connection.poll():
                kind, number, op, message = connection.recv()
                if kind == "seen":
                    self._world.played.said.append(Said(self.name, op, message))
                else:
                    self._world.spawn(self._answer(connection, number, op, message))
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(connection.fileno())
            connection.close()

    async def _answer(self, connection: Connection, number: int, op: str, message: Doc) -> None:
        answer: tuple[str, int, Any]
        try:
            answer = ("answer", number, await self._world.served(self.name, op, message))
        except FleetError as error:
            answer = ("refused", number, (str(error.code), error.message, dict(error.detail)))
        except Exception as error:
            answer = ("unanswered", number, repr(error))
        with contextlib.suppress(OSError):
            connection.send(answer)

    async def restart(self, after_s: float = 0.0) -> None:
        """As by a service manager, after SIGKILL."""
        async with self._turn:
            self.kill()
            await asyncio.sleep(after_s)
            self.start()

    async def keep_up(self) -> None:
        """As `up` does: what ended by itself is started again."""
        if not self._turn.locked() and self._process is not None and not self._process.is_alive():
            await self.restart(BACK_S)

    def kill(self) -> None:
        if self._process is not None and self._process.is_alive():
            os.kill(self._process.pid or 0, signal.SIGKILL)
            self._process.join()

    async def drained(self) -> None:
        if self._process is None or self._connection is None:
            return
        with contextlib.suppress(OSError):
            self._connection.send(("order", 0, "drain"))
        await asyncio.to_thread(self._process.join, DRAIN_WITHIN_S)
        self.kill()


class World:
    def __init__(self, plan: EdgePlan, folder: Path, mutation: str | None) -> None:
        self.mutation = mutation
        self.chance = random.Random(f"world {plan.seed}")
        (folder / "machines").mkdir(parents=True)
        (folder / "secrets").mkdir()
        (folder / "secrets" / "operator.token").write_text(CANARY)
        (folder / "machines" / "secrets").mkdir()
        (folder / "machines" / "secrets" / "operator.token").write_text(CANARY)
        self.played = Played(plan, folder, make(plan.kind, folder / "sources"))
        home = folder / "home"
        home.mkdir()
        (home / ".gitconfig").write_text(
            '[user]\n\tname = The Machine\n\temail = machine@example.invalid\n[protocol "file"]\n\tallow = always\n'
            '[init]\n\tdefaultBranch = main\n[filter "lfs"]\n\tclean = git-lfs clean -- %f\n'
            "\tsmudge = git-lfs smudge -- %f\n\tprocess = git-lfs filter-process\n\trequired = true\n"
        )
        self.environ = {
            "HOME": str(home),
            "XDG_CACHE_HOME": str(folder / "caches"),
            "MYCLOUD_TOKEN": CANARY,
            "AQ_FLEET_TOKEN": CANARY,
            "GIT_DIR": str(folder / CANARY),
            "GIT_INDEX_FILE": str(folder / CANARY / "index"),
        }
        self.machines = {name: Machine(self, name, seats) for name, seats in zip(MACHINES, (2, 1), strict=True)}
        self._tasks: set[asyncio.Task[None]] = set()
        self._coordinator: Coordinator | None = None
        self._proxy: TcpProxy | None = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def served(self, machine: str, op: str, message: Doc) -> Any:
        assert self._coordinator is not None
        if op == "log":
            chunk = LogChunk.model_validate(message)
            key = (chunk.job_id, chunk.lease_epoch)
            self.played.texts[key] = self.played.texts.get(key, "") + chunk.text
            return chunk.offset + len(chunk.text.encode())
        if op == "ended":
            asked = EndedRequest.model_validate({**message, "factoryId": machine})
            return (await ended_jobs.ended_jobs(self._coordinator.ctx, asked)).job_ids
        model, handler = OPS[op]
        answer = (await handler(self._coordinator.ctx, model.model_validate(message))).to_doc()
        if op in ("report", "release", "checkpoint"):
            self.played.said.append(Said(machine, op, message))
        return answer

    async def play(self) -> None:
        played, plan = self.played, self.played.plan
        if played.source is not None:
            played.before = truth.refs_of(played.source.git_dir)
            played.bytes_before = owned_bytes(played.source)
        self._coordinator = assemble(
            MemoryStore(),
            NoBus(),
            LogFiles(played.folder / "logs"),
            clock=SystemClock(),
            entropy=Entropy(random.Random(plan.seed)),
            timers=TIMERS,
        )
        async with running(self._coordinator), self._served_source() as url:
            for machine in self.machines.values():
                doc = FactoryDoc(id=machine.name, product_id=PRODUCT, products=(PRODUCT,))
                await enrolment.enroll(self._coordinator.ctx, doc)
                machine.start()
            for job in plan.jobs:
                await self._submit(job, url)
            for fault in plan.faults:
                self.spawn(self._fault(fault))
            await self._until_finished()
            for machine in self.machines.values():
                await machine.drained()
            await self._note_ends()
            played.left_running = ended_in(played.folder)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def _served_source(self) -> AsyncIterator[str]:
        """The line of a manifest that names the source."""
        source, plan = self.played.source, self.played.plan
        if source is None:
            yield ""
        elif source.kind == "folder":
            yield "cwd: /srv/work"
        elif not plan.served:
            yield f"repo: {source.path}"
        else:
            port = free_port()
            base = str(source.path.parent)
            argv = ["git", "daemon", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", f"--base-path={base}"]
            server = await asyncio.create_subprocess_exec(
                *argv, "--export-all", "--enable=receive-pack", base, stderr=asyncio.subprocess.DEVNULL
            )
            self._proxy = TcpProxy([port])
            await self._proxy.start()
            try:
                yield f"repo: git://127.0.0.1:{self._proxy.port}/{source.path.name}"
            finally:
                await self._proxy.stop()
                server.terminate()
                await server.wait()

    async def _submit(self, job: JobPlan, where: str) -> None:
        assert self._coordinator is not None
        folder = self.played.folder
        raw = job.manifest(
            where, str(folder / f"evil-{job.name}"), str(folder / "machines" / "secrets" / "operator.token")
        )
        submission = intake.Submission(raw, PRODUCT, f"{self.played.plan.seed}-{job.name}")
        self.played.ids[job.name] = (await intake.submit(self._coordinator.ctx, submission, "operator:ann")).job.id

    async def _job(self, name: str) -> Job:
        assert self._coordinator is not None
        stored = await read_job(self._coordinator.ctx.store, JobKey(PRODUCT, self.played.ids[name]))
        assert stored is not None
        return stored.job

    async def _until_finished(self) -> None:
        """An operator is there: what a fault kept from its end is tried again once that is over."""
        until = time.monotonic() + (WITHIN_S if self.mutation is None else BROKEN_WITHIN_S)
        while True:
            jobs = {job.name: await self._job(job.name) for job in self.played.plan.jobs}
            waiting = {name: job for name, job in jobs.items() if not await self._is_over(name, job)}
            if not waiting:
                return
            for machine in self.machines.values():
                await machine.keep_up()
            if time.monotonic() > until:
                self.played.gave_up = ", ".join(f"{name} is {job.stage}" for name, job in waiting.items())
                return
            await asyncio.sleep(LOOK_S)

    async def _is_over(self, name: str, job: Job) -> bool:
        assert self._coordinator is not None
        stuck = job.result is not None and job.result.outcome in ("machine_failed", "unpublished")
        if job.stage in (Stage.BLOCKED, Stage.FAILED) and stuck and job.not_before is None:
            await asyncio.sleep(CUT_S)
            key = f"requeue-{job.lease_epoch}"
            await actions.act(self._coordinator.ctx, JobKey(PRODUCT, job.id), "requeue", "operator:ann", key)
            return False
        return job.stage in FINISHED and not (job.stage is Stage.FAILED and job.not_before is not None)

    async def _note_ends(self) -> None:
        assert self._coordinator is not None
        for job in self.played.plan.jobs:
            self.played.jobs[job.name] = await self._job(job.name)
            key = JobKey(PRODUCT, self.played.ids[job.name])
            history = await read_history(self._coordinator.ctx.store, key)
            self.played.events[job.name] = [event.to_doc() for event in history or ()]

    async def _fault(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at_s)
        machine, source = self.machines[fault.on], self.played.source
        self.played.faults[fault.name] += 1
        match fault.name:
            case "kill":
                await machine.restart(BACK_S)
            case "full-disk":
                machine.full = 1 + int(4 * fault.amount)
                await machine.restart()
            case "damage":
                damage(machine.data / "work" / "cache", self.chance)
            case "broken-disk":
                await self._broken_disk(machine)
            case "refuse" if source is not None:
                source.refuse(True)
                await asyncio.sleep(REFUSES_S + fault.amount)
                source.refuse(False)
            case "cut" if self._proxy is not None:
                await self._proxy.cut()
                await asyncio.sleep(CUT_S)
                await self._proxy.start()

    async def _broken_disk(self, machine: Machine) -> None:
        """Where trees are made, there is a file."""
        trees = machine.data / "work" / "tmp"
        aside = trees.with_name("tmp-aside")
        with contextlib.suppress(OSError):
            trees.rename(aside)
        with contextlib.suppress(OSError):
            trees.write_text("no folder")
        await asyncio.sleep(CUT_S)
        with contextlib.suppress(OSError):
            trees.unlink()
            aside.rename(trees)


def ended_in(folder: Path) -> list[str]:
    """Ends what still works for a machine of this world, and tells what it was."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            env = process.environ()
            if any(env.get(name, "").startswith(f"{folder}/") for name in MARKS):
                found.append(" ".join(process.cmdline())[:200])
                process.kill()
    return found


def damage(cache: Path, chance: random.Random) -> None:
    """As after a loss of power: some files of the copies are cut or empty. Their inodes are not those of terms."""
    files = [path for path in cache.glob("*.git/objects/pack/*") if path.suffix in (".pack", ".idx")]
    for path in chance.sample(files, min(len(files), 2)):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data[: len(data) // 2])


def owned_bytes(source: Source) -> dict[str, bytes]:
    """What in the source's folder is a person's, and no term's to change."""
    names = ["config", "HEAD", "index", "description"]
    found = {name: (source.git_dir / name).read_bytes() for name in names if (source.git_dir / name).exists()}
    for hook in (source.git_dir / "hooks").glob("*"):
        if hook.name != "pre-receive":
            found[f"hooks/{hook.name}"] = hook.read_bytes()
    if source.kind == "folder":
        for path in source.path.rglob("*"):
            if path.is_file() and ".git" not in path.parts:
                found[str(path)] = path.read_bytes()
    return found


def played(plan: EdgePlan, mutation: str | None = None, keep: Path | None = None) -> Played:
    """`keep`: where its folder is left for somebody to look at; else call `forget`."""
    folder = keep or Path(tempfile.mkdtemp(prefix="edges-"))
    began = time.monotonic()
    world = World(plan, folder, mutation)
    asyncio.run(world.play())
    world.played.seconds = time.monotonic() - began
    return world.played


def forget(one: Played) -> None:
    from factory.workspace.removal import sweep

    sweep(one.folder)
    shutil.rmtree(one.folder, ignore_errors=True)
