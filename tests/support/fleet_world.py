"""A whole fleet in one process on virtual time: a real coordinator on a bus in memory, and real factories whose terms
are scripted instead of run. Nothing here waits for a socket, a child process or a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bus.memory import MemoryBroker, MemoryBus
from bus.rights import factory_rights
from bus.subjects import inbox_prefix
from coordinator.assembly import running
from coordinator.context import Context
from coordinator.handlers import enrolment
from coordinator.inbox import OPS
from factory.claiming import Claiming
from factory.engines.shell import ShellEngine
from factory.git.run import is_machines
from factory.held_terms import HeldTerms
from factory.identity import Identity
from factory.life import Life, Parts, Work
from factory.link.bus import BusLink
from factory.link.failover import FailoverLink
from factory.link.port import Unanswered
from factory.log_delivery import LogDelivery
from factory.opening import MachineWords
from factory.outbox import Outbox
from factory.ports import Vitals
from factory.process import EngineProcess
from factory.session import Session
from factory.surroundings.folders import FolderRoots
from factory.surroundings.surroundings import Surroundings
from factory.surroundings.variables import machine_variables
from factory.term import TermEnd, Tools
from factory.term_state import OUTCOME_OF, TermState
from factory.workspace.workspaces import Workspaces
from runtime.clock import LoopClock
from runtime.entropy import Entropy
from schemas.factory import FactoryDoc
from schemas.messages import Grant, LogChunk
from schemas.outcome import Outcome, Result
from schemas.work import Engine
from tests.support.fleet import PRODUCT, assembled_coordinator
from tests.support.waiting import eventually

RPC_TIMEOUT_S = 0.5
SOON_S = 5.0
Message = dict[str, Any]
Ask = Callable[[], Any]


def vitals() -> Vitals:
    return Vitals(0.0, 1 << 40)


class ScriptedTerm:
    """Stands where a Term would: its engine runs until its session says that it must end, or the test `finish`es it."""

    def __init__(self, state: TermState, tools: Tools) -> None:
        self.state = state
        self.tools = tools
        self.result: Result | None = None
        self.began_s: float | None = None
        self.ended_s: float | None = None
        self.kept: bool | None = None
        self._poked = asyncio.Event()
        SCRIPTED.append(self)

    @property
    def grant(self) -> Grant:
        return self.state.grant

    @property
    def running(self) -> bool:
        return self.began_s is not None and self.ended_s is None

    def poke(self) -> None:
        self._poked.set()

    def finish(self, outcome: Outcome = Outcome.OK) -> None:
        self.result = Result(outcome=outcome)
        self.poke()

    async def run(self) -> TermEnd:
        clock = self.tools.clock
        if (reason := self.state.must_end(clock.boot_s())) is None:
            self.began_s = clock.boot_s()
            self.state.engine_started(self.began_s)
        while reason is None:
            if self.result is not None:
                self.ended_s = clock.boot_s()
                return TermEnd(self.result, shows_machine=is_machines(self.result.summary or ""))
            self._poked.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self.state.next_look_s() - clock.boot_s())):
                    await self._poked.wait()
            reason = self.state.must_end(clock.boot_s())
        self.ended_s = self.ended_s or clock.boot_s()
        outcome = OUTCOME_OF[reason]
        return TermEnd(Result(outcome=outcome), release=outcome not in (Outcome.TIMEOUT, Outcome.STALLED))

    async def tidy(self, end: TermEnd, *, superseded: bool) -> None:
        self.kept = superseded


SCRIPTED: list[ScriptedTerm] = []


class Way:
    """One way to the coordinators, with what a test does to it. `asked` keeps every message that was sent."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Message]] = []
        self.gone: set[str] = set()  # ops that never arrive
        self.mute: set[str] = set()  # ops that arrive and take effect, but whose answer is lost
        self.late_s: dict[str, float] = {}  # ops whose answer is this late

    async def through(self, op: str, message: Message, ask: Ask) -> Message:
        self.asked.append((op, message))
        if op in self.gone:
            raise Unanswered("scripted: it never arrived")
        answer: Message = await ask()
        if op in self.mute:
            raise Unanswered("scripted: the answer was lost")
        await asyncio.sleep(self.late_s.get(op, 0.0))
        return answer

    def ops(self) -> list[str]:
        return [op for op, _ in self.asked]

    def cut(self) -> None:
        self.gone = set(OPS)

    def heal(self) -> None:
        self.gone, self.mute, self.late_s = set(), set(), {}


class TappedBusLink(BusLink):
    def __init__(self, bus: MemoryBus, factory_id: str) -> None:
        super().__init__(bus, factory_id, RPC_TIMEOUT_S)
        self.way = Way()

    async def call(self, op: str, message: Message) -> Message:
        return await self.way.through(op, message, lambda: BusLink.call(self, op, message))


class HandlersLink:
    """Where REST would be: the same handlers, without HTTP. The real thing is used in tests/e2e."""

    connected = True

    def __init__(self, ctx: Context) -> None:
        self.way = Way()
        self._ctx = ctx

    async def call(self, op: str, message: Message) -> Message:
        model, handler = OPS[op]

        async def ask() -> Message:
            return (await handler(self._ctx, model.model_validate(message))).to_doc()

        return await self.way.through(op, message, ask)


class FactoryLife:
    """One life of a factory process. `died` as by SIGKILL: nothing more is said."""

    def __init__(
        self,
        world: FleetWorld,
        factory_id: str,
        data: Path,
        seats: int,
        capabilities: tuple[str, ...],
        drain_grace_s: float,
        takeover: bool,
        detected: tuple[str, ...],
        entitled: tuple[str, ...],
    ) -> None:
        clock, entropy = LoopClock(), world.entropy
        self.identity = Identity(data)
        self.outbox = Outbox(data / "outbox")
        rights = factory_rights(factory_id, (PRODUCT,), entitled)
        self.bus = MemoryBus(world.broker, name=factory_id, inbox_prefix=inbox_prefix(factory_id), rights=rights)
        bus_link, rest_link = TappedBusLink(self.bus, factory_id), HandlersLink(world.ctx)
        self.over_bus, self.over_rest = bus_link.way, rest_link.way
        self.link = FailoverLink(bus_link, rest_link)
        self.bus.on_change(self.link.bus_changed)
        self.session = Session(factory_id, self.link, clock, entropy)
        engines = {Engine.SHELL: ShellEngine()}

        async def send_log(chunk: LogChunk, *, live: bool) -> int:
            return chunk.offset + len(chunk.text.encode())

        parts = Parts(
            machine=MachineWords(
                capabilities=capabilities,
                engines=tuple(engines),
                workspaces=(),
                seats=seats,
                vitals=lambda: vitals(),  # looked up at each call, so that a test can break it
                os_name="linux",
                detected=detected,
            ),
            session=self.session,
            link=self.link,
            bus=self.bus,
            clock=clock,
            identity=self.identity,
            outbox=self.outbox,
            logs=LogDelivery(data / "logs", send_log),
            trees=Workspaces(data / "work", {}),
            launch=EngineProcess.start,
            adapters=engines,
            surroundings=Surroundings(machine_variables(os.environ), FolderRoots(data / "terms", data / "scratch")),
            takeover=takeover,
            drain_grace_s=drain_grace_s,
        )
        self.life = Life(parts)
        self.task = asyncio.create_task(self._live())

    async def _live(self) -> None:
        await self.bus.start()
        try:
            await self.life.run()
        finally:
            await self.bus.close()
            self.identity.release()

    @property
    def work(self) -> Work:
        assert self.life.work is not None
        return self.life.work

    @property
    def held(self) -> HeldTerms:
        return self.work.held

    @property
    def claiming(self) -> Claiming:
        return self.work.claiming

    @property
    def asked(self) -> list[tuple[str, Message]]:
        return self.over_bus.asked + self.over_rest.asked

    async def opened(self) -> FactoryLife:
        await eventually(lambda: self.life.work is not None or self.task.done(), within_s=60.0)
        return self

    async def died(self) -> None:
        for way in (self.over_bus, self.over_rest):
            way.cut()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class FleetWorld:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entropy = Entropy(random.Random(7))
        self.broker = MemoryBroker(self.entropy)
        self.bus = MemoryBus(self.broker, name="coordinator")
        self.coordinator = assembled_coordinator(bus=self.bus, logs=folder / "logs")
        self.ctx = self.coordinator.ctx
        self.lives: list[FactoryLife] = []

    async def factory(
        self,
        factory_id: str = "f1",
        *,
        seats: int = 1,
        capabilities: tuple[str, ...] = (),
        data: str | None = None,
        drain_grace_s: float = 30.0,
        takeover: bool = False,
        detected: tuple[str, ...] = (),
        entitled: tuple[str, ...] | None = None,
    ) -> FactoryLife:
        """Begins a life; wait for `opened`. `data`: a folder other than the factory's usual one."""
        may = capabilities if entitled is None else entitled
        doc = FactoryDoc(id=factory_id, product_id=PRODUCT, products=(PRODUCT,), enrolled_capabilities=may)
        await enrolment.enroll(self.ctx, doc)
        folder = self.folder / (data or factory_id)
        life = FactoryLife(self, factory_id, folder, seats, capabilities, drain_grace_s, takeover, detected, may)
        self.lives.append(life)
        return life

    async def term(self, number: int = 1, within_s: float = SOON_S) -> ScriptedTerm:
        """The n-th term that any factory began, once its engine runs."""
        await eventually(lambda: len(self.terms) >= number and self.terms[number - 1].began_s is not None, within_s)
        return self.terms[number - 1]

    @property
    def terms(self) -> list[ScriptedTerm]:
        return SCRIPTED


@asynccontextmanager
async def fleet_world(folder: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[FleetWorld]:
    patch.setattr("factory.life.Term", ScriptedTerm)
    SCRIPTED.clear()
    world = FleetWorld(folder)
    async with running(world.coordinator):
        try:
            yield world
        finally:
            for life in world.lives:
                await life.died()
