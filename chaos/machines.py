"""A simulated factory's machine, which outlives its processes: clocks, disk, programs, work trees."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import random
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any

from chaos.history import History
from chaos.processes import Process
from factory.git.run import GitError
from factory.ports import Ended, Fault, Saved, WorkspaceError, Worktree
from factory.probe import PROBE
from runtime.clock import EPOCH
from schemas.messages import Grant

PRINT_EVERY_S = 3.0
KILLED_WITHIN_S = 0.2  # a launcher whose pipe was closed
NOTHING = "0" * 40


class DriftingClock:
    """Of one machine: `skew_s` off in wall time, and running `1 + drift` as fast as true time."""

    def __init__(self, skew_s: float, drift: float = 0.0) -> None:
        self.skew_s = skew_s
        self._drift = drift

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.boot_s() + self.skew_s)

    def boot_s(self) -> float:
        return asyncio.get_running_loop().time() * (1 + self._drift)

    def true_s(self, boot_s: float) -> float:
        return boot_s / (1 + self._drift)


@dataclass
class Remote:
    """The one repository, as git's server has it."""

    refs: dict[str, str] = field(default_factory=dict)
    commits: set[str] = field(default_factory=lambda: {NOTHING})
    refuses: bool = False  # to take a branch


@dataclass
class _Tree:
    base: str
    changes: int = 0
    saved: int = 0
    commit: str | None = None
    kept: bool = False


class Machine:
    """`git_trouble`: pushes fail. `broken`: it can make no tree."""

    def __init__(
        self, factory_id: str, folder: Path, clock: DriftingClock, seed: int, history: History, remote: Remote
    ) -> None:
        self.factory_id = factory_id
        self.folder = folder
        self.clock = clock
        self.git_trouble = False
        self.broken = False
        self.trees: dict[tuple[str, int], _Tree] = {}
        self.commits: set[str] = set()
        self.trusted_s: dict[tuple[str, int], float] = {}  # what git's credential helper goes by
        self.remote = remote
        self.chance = random.Random(f"machine {seed} {factory_id}")
        self.seed = seed
        self._history = history

    def note(self, kind: str, **data: Any) -> None:
        self._history.note(asyncio.get_running_loop().time(), kind, f"factory:{self.factory_id}", **data)

    def refuse_push(self, tree: Worktree) -> None:
        if self.git_trouble:
            raise GitError("simulated: the remote does not answer")
        if self.clock.boot_s() >= self.trusted_s.get((tree.job_id, tree.lease_epoch), inf):  # none: no program was run
            raise GitError("simulated: no credential, since the term is not trusted any more")

    async def takes(self, low: float, high: float) -> None:
        await asyncio.sleep(self.chance.uniform(low, high))


class ScriptedTrees:
    """Stands where Workspaces would: the same promises, without git. One for each life of the process."""

    def __init__(self, machine: Machine, life: int) -> None:
        self._machine = machine
        self._life = life

    def _note(self, tree: Worktree, does: str, **data: Any) -> None:
        if tree.job_id == PROBE:  # of no job
            return
        self._machine.note("tree", does=does, life=self._life, jobId=tree.job_id, leaseEpoch=tree.lease_epoch, **data)

    def set_aside_left_over(self) -> None:
        for (job_id, lease_epoch), tree in self._machine.trees.items():
            if not tree.kept:
                tree.kept = True
                self._machine.note("tree", does="quarantined", life=self._life, jobId=job_id, leaseEpoch=lease_epoch)

    async def prepare(self, grant: Grant, _progress: Callable[[str], None]) -> Worktree:
        machine = self._machine
        await machine.takes(0.02, 0.4)
        if machine.broken:
            raise WorkspaceError("simulated: Read-only file system", Fault.MACHINE)
        base = NOTHING
        if grant.checkpoint is not None:
            base = grant.checkpoint.commit
            if base not in (machine.remote.commits | machine.commits):
                raise WorkspaceError(f"the checkpoint {base[:12]} is nowhere", Fault.REMOTE)
        machine.trees[(grant.job_id, grant.lease_epoch)] = _Tree(base)
        path = Path(f"/simulated/{grant.job_id}/{grant.lease_epoch}")
        tree = Worktree(path, path, grant.repo, grant.job_id, grant.lease_epoch, base, local=grant.repo is None)
        self._note(tree, "made", base=base)
        return tree

    def _of(self, tree: Worktree) -> _Tree:
        return self._machine.trees[(tree.job_id, tree.lease_epoch)]

    async def save(self, tree: Worktree, message: str) -> Saved | None:
        machine, state = self._machine, self._of(tree)
        changes = state.changes
        if changes == state.saved:
            return None
        await machine.takes(0.02, 0.3)
        if tree.remote is not None:
            machine.refuse_push(tree)
        commit = hashlib.sha1(f"{tree.job_id} {tree.lease_epoch} {changes}".encode(), usedforsecurity=False).hexdigest()
        if tree.remote is not None:
            machine.remote.commits.add(commit)
            machine.remote.refs[tree.ref] = commit
        machine.commits.add(commit)
        state.saved, state.commit = changes, commit
        self._note(tree, "pushed", ref=tree.ref, commit=commit, local=tree.remote is None)
        return Saved(commit, commit, tree.ref, tree.local)

    async def settle(self, tree: Worktree) -> bool:
        state = self._of(tree)
        tree.settled = state.saved == state.changes
        return tree.settled

    async def publish(self, tree: Worktree, saved_commit: str) -> str | None:
        if tree.remote is None:
            return None
        await self._machine.takes(0.02, 0.2)
        self._machine.refuse_push(tree)
        if self._machine.remote.refuses:
            raise GitError("simulated: the server takes no branch")
        branch = f"fleet/{tree.job_id}/{tree.lease_epoch}"
        self._note(tree, "published", branch=branch, commit=saved_commit)
        return branch

    async def diff_stat(self, tree: Worktree, commit: str) -> dict[str, int]:
        return {"files": self._of(tree).changes, "insertions": 0, "deletions": 0}

    async def changed_since(self, tree: Worktree, commit: str) -> list[str]:
        return []

    async def clean_up(self, tree: Worktree) -> bool:
        if tree.remote is None or not await self.settle(tree):
            return False
        self.delete(tree)
        return True

    def delete(self, tree: Worktree) -> None:
        state = self._machine.trees.pop((tree.job_id, tree.lease_epoch))
        clean = state.saved == state.changes
        self._note(tree, "deleted", clean=clean, pushed=clean and tree.remote is not None)

    async def quarantine(self, tree: Worktree, why: str) -> Path | None:
        self._of(tree).kept = True
        self._note(tree, "quarantined")
        return tree.path


class ScriptedEngine:
    """A program under its launcher: both live on when the factory is stopped, and end when its pipe closes."""

    def __init__(self, launcher: Launcher, term: tuple[str, int], lasts_s: float, rc: int, deadline_s: float) -> None:
        self._launcher = launcher
        self._term = term
        self._lasts_s = lasts_s
        self._rc = rc
        self._deadline_s = deadline_s
        self._told_s: float | None = None
        self._look = asyncio.Event()
        self._ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()

    def move_deadline(self, deadline_s: float) -> None:
        self._deadline_s = self._launcher.machine.trusted_s[self._term] = deadline_s
        self._look.set()

    def end(self, grace_s: float) -> None:
        self._told_s = asyncio.get_running_loop().time() + min(grace_s, 0.1)
        self._look.set()

    async def wait(self) -> Ended:
        return await asyncio.shield(self._ended)

    async def run(self, prints: Callable[[bytes], None], changes: Callable[[], None]) -> None:
        machine, loop = self._launcher.machine, asyncio.get_running_loop()
        self._note("begins")
        over_s, print_s, ended = loop.time() + self._lasts_s, loop.time() + PRINT_EVERY_S, Ended("exited", self._rc)
        while True:
            now_s = loop.time()
            until_s = min(over_s, print_s, machine.clock.true_s(self._deadline_s), *self._ends_s())
            if until_s > now_s:
                self._look.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(until_s - now_s):
                        await self._look.wait()
                continue
            if self._launcher.gone_s is not None and now_s >= self._launcher.gone_s:
                ended = Ended("factory_gone", -9)
            elif now_s >= machine.clock.true_s(self._deadline_s):
                ended = Ended("trust_lost", -9)
            elif self._told_s is not None and now_s >= self._told_s:
                ended = Ended("told", -15)
            elif now_s < over_s:
                print_s = now_s + PRINT_EVERY_S
                changes()
                prints(b"at work\n")
                continue
            break
        if ended.reason == "exited" and self._lasts_s > 1.0:
            changes()
        self._note("ends")
        self._ended.set_result(ended)

    def look(self) -> None:
        self._look.set()

    def _ends_s(self) -> list[float]:
        return [one for one in (self._told_s, self._launcher.gone_s) if one is not None]

    def _note(self, does: str) -> None:
        job_id, lease_epoch = self._term
        self._launcher.note(does, job_id, lease_epoch)


class Launcher:
    """Starts programs for one life of a factory. `gone_s`: when they end because that factory was killed."""

    def __init__(self, machine: Machine, process: Process, life: int) -> None:
        self.machine = machine
        self.gone_s: float | None = None
        self.session_id = ""
        self.product_of: dict[str, str] = {}
        self._process = process
        self._life = life
        self._running: list[ScriptedEngine] = []  # in order: a set's is that of addresses in memory
        self._tasks: set[asyncio.Task[None]] = set()

    def factory_gone(self) -> None:
        self.gone_s = asyncio.get_running_loop().time() + self.machine.chance.uniform(0, KILLED_WITHIN_S)
        for engine in self._running:
            engine.look()

    def note(self, does: str, job_id: str, lease_epoch: int) -> None:
        if job_id == PROBE:  # of no job
            return
        product = self.product_of.get(job_id)
        self.machine.note(
            "engine", does=does, life=self._life, sessionId=self.session_id, productId=product, jobId=job_id,
            leaseEpoch=lease_epoch,
        )  # fmt: skip

    async def __call__(
        self,
        argv: tuple[str, ...],
        *,
        cwd: Path,
        env: Mapping[str, str],
        control: Path,
        deadline_s: float,
        on_output: Callable[[bytes], None],
        around: tuple[str, ...] = (),
    ) -> ScriptedEngine:
        await self.machine.takes(0.005, 0.1)
        job_id, lease_epoch = env["GIGAFACTORY_JOB"], int(env["GIGAFACTORY_EPOCH"])
        self.machine.trusted_s[(job_id, lease_epoch)] = deadline_s
        lasts_s, rc = self._script(job_id, lease_epoch, verifies=argv[0] == "sh")
        engine = ScriptedEngine(self, (job_id, lease_epoch), lasts_s, rc, deadline_s)
        tree = self.machine.trees[(job_id, lease_epoch)]

        def changes() -> None:
            tree.changes += argv[0] != "sh"

        self._running.append(engine)
        work = engine.run(lambda data: self._process.call(on_output, data), changes)
        self._apart(work, lambda: self._running.remove(engine))
        return engine

    def _script(self, job_id: str, lease_epoch: int, *, verifies: bool) -> tuple[float, int]:
        """(seconds, exit code), the same for a term however often it is played."""
        chance = random.Random(f"{self.machine.seed} {job_id} {lease_epoch} {verifies}")
        if verifies:
            return chance.uniform(0.05, 0.5), int(chance.random() < 0.1)
        lasts_s = chance.choice((chance.uniform(0.1, 2), chance.uniform(1, 12), chance.uniform(5, 40)))
        return lasts_s, int(chance.random() < 0.1)

    def _apart(self, work: Coroutine[Any, Any, None], over: Callable[[], None]) -> None:
        """In no process: stopping the factory does not stop its engines."""
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: over())
