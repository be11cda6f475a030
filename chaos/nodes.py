"""The processes of a simulated fleet, each made of the real code around adapters that are twins."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path

from bus.rights import factory_rights
from bus.subjects import client_name, inbox_prefix
from chaos.environment import Environment
from chaos.machines import DriftingClock, Launcher, Machine, ScriptedTrees
from chaos.plan import TTL_S, CoordinatorPlan, FactoryPlan
from chaos.processes import Process
from chaos.recording import NotedBusLink
from chaos.stores import StoreLine, Weather
from chaos.wires import ProcessBus, SimRestLink
from coordinator.assembly import assemble, running
from coordinator.context import Context
from coordinator.store.port import StoreError
from coordinator.term_logs import LogFiles
from factory.engines.port import Command
from factory.identity import Identity
from factory.life import Life, Parts
from factory.link.failover import FailoverLink
from factory.log_delivery import LogDelivery
from factory.opening import FencedSession, MachineWords
from factory.outbox import Outbox
from factory.ports import Vitals
from factory.session import Session
from factory.surroundings.folders import FolderRoots
from factory.surroundings.surroundings import Surroundings
from runtime.entropy import Entropy
from runtime.settings import Flags, Timers
from schemas.errors import FleetError
from schemas.messages import Grant
from schemas.projections import Insights
from schemas.work import Engine

log = logging.getLogger(__name__)

TIMERS = Timers.for_lease_ttl(TTL_S)
RPC_TIMEOUT_S = 0.5
CHECKPOINT_EVERY_S = 4.0
IDLE_LIMIT_S = 20.0
DRAIN_GRACE_S = 8.0


class CoordinatorNode:
    """One coordinator through its lives."""

    def __init__(self, world: Environment, plan: CoordinatorPlan) -> None:
        self.plan = plan
        self.clock = DriftingClock(plan.skew_s)
        self.weather = Weather()
        self.cut_off = False
        self.lives = 0
        self.ctx: Context | None = None
        self.process = Process(f"coordinator:{plan.id}")
        self.process.dead = True
        self.line: StoreLine | None = None
        self.bus: ProcessBus | None = None
        self._world = world

    @property
    def name(self) -> str:
        return f"coordinator:{self.plan.id}"

    def start(self) -> None:
        if not self.process.dead:
            return
        world = self._world
        self.lives += 1
        self.process = Process(self.name)
        chance = random.Random(f"{world.plan.seed} {self.name} {self.lives}")
        self.line = StoreLine(world.store, self.process, chance, self.weather)
        self.bus = ProcessBus(world.broker, self.process, name=self.plan.id)
        self.process.spawn(self._live(self.line, self.bus, Entropy(chance)))

    async def _live(self, line: StoreLine, bus: ProcessBus, entropy: Entropy) -> None:
        world = self._world
        coordinator = assemble(
            line,
            bus,
            LogFiles(world.folder / "logs"),
            clock=self.clock,
            entropy=entropy,
            timers=TIMERS,
            flags=Flags(budgets=world.plan.budgets),
            alone=len(world.plan.coordinators) == 1,
        )
        try:
            async with running(coordinator):
                self.ctx = coordinator.ctx
                world.note("up", self.name, life=self.lives)
                await asyncio.get_running_loop().create_future()
        except StoreError as error:  # as a service manager would: started again until the store lets it
            log.info("%s did not start: %s", self.name, error)
            world.later(0.0, self.kill)
            world.later(1.0, self.start)

    def kill(self) -> None:
        world = self._world
        if self.process.dead:
            return
        if self.ctx is not None:
            world.note("down", self.name, life=self.lives, how="killed")
        self.process.kill()
        self.ctx = None
        if self.bus is not None:
            self.bus.vanish()
        world.rest.reset(self.process)


class ScriptedAdapter:
    name = Engine.SHELL

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def missing(self) -> str | None:
        return None

    def command(self, grant: Grant, control: Path) -> Command:
        self._launcher.product_of[grant.job_id] = grant.product_id
        return Command(("engine", grant.job_id))

    def insights(self, output_tail: str) -> Insights:
        return Insights(cost_usd=1.0)


class FactoryNode:
    """One factory's machine, and the lives of the process on it."""

    def __init__(self, world: Environment, plan: FactoryPlan, where: str = "") -> None:
        self.plan = plan
        self.clock = DriftingClock(plan.skew_s, plan.drift)
        folder = world.folder / (plan.id + where)
        self.machine = Machine(plan.id, folder, self.clock, world.plan.seed, world.history, world.remote)
        self.lives = 0
        self.life: FactoryLife | None = None
        self.where = where
        self._world = world

    @property
    def name(self) -> str:
        return f"factory:{self.plan.id}"

    @property
    def up(self) -> bool:
        return self.life is not None

    def start(self, *, takeover: bool = False) -> None:
        if self.life is None:
            self.lives += 1
            self._world.lives_of_factories += 1
            self.life = FactoryLife(self._world, self, self._world.lives_of_factories, takeover)

    def kill(self) -> None:
        if self.life is not None:
            self.life.kill()
            self.life = None

    def ended(self, life: FactoryLife) -> None:
        if self.life is life:
            self.life = None


class FactoryLife:
    """From the start of a factory's process to its end, whichever it is."""

    def __init__(self, world: Environment, node: FactoryNode, life: int, takeover: bool) -> None:
        plan, machine = node.plan, node.machine
        self.life = life
        self.node = node
        self.process = Process(node.name)
        self._world = world
        entropy = Entropy(random.Random(f"{world.plan.seed} {node.name}{node.where} {life}"))
        session_id = entropy.token()
        rights = factory_rights(plan.id, plan.products, plan.capabilities)
        self.bus = ProcessBus(
            world.broker,
            self.process,
            name=client_name(plan.id, session_id),
            inbox_prefix=inbox_prefix(plan.id),
            rights=rights,
            public=plan.bus_key,
        )
        self.rest = SimRestLink(world.rest, self.process, node.name, world.ask_recorder)
        bus_link = NotedBusLink(self.bus, plan.id, RPC_TIMEOUT_S, world.ask_recorder)
        link = FailoverLink(bus_link, self.rest)
        self.bus.on_change(link.bus_changed)
        self.identity = Identity(machine.folder)
        self.trees = ScriptedTrees(machine, life)
        self.launcher = Launcher(machine, self.process, life)
        self.launcher.session_id = session_id
        session = Session(plan.id, link, node.clock, entropy, session_id)
        self.running: Life | None = None
        world.note(
            "up", node.name, life=life, seats=plan.seats, engines=[Engine.SHELL], capabilities=list(plan.capabilities),
            sessionId=session_id,
        )  # fmt: skip
        self.process.spawn(self._live(session, link, takeover))

    async def _live(self, session: Session, link: FailoverLink, takeover: bool) -> None:
        how = "ended"
        try:
            self.trees.set_aside_left_over()
            await self.bus.start()
            self.running = Life(self._parts(session, link, takeover))
            await self.running.run()
            how = "drained"
        except FencedSession:
            how = "fenced"
        except FleetError as error:
            log.info("%s ends: %s", self.node.name, error.message)
        await self.bus.close()
        self.identity.release()
        self._over(how)
        self.node.ended(self)

    def _parts(self, session: Session, link: FailoverLink, takeover: bool) -> Parts:
        plan, machine = self.node.plan, self.node.machine
        adapters = {Engine.SHELL: ScriptedAdapter(self.launcher)}
        return Parts(
            machine=MachineWords(
                capabilities=plan.capabilities,
                engines=tuple(adapters),
                workspaces=(),
                seats=plan.seats,
                vitals=lambda: Vitals(0.0, 1 << 40),
                os_name="linux",
            ),
            session=session,
            link=link,
            bus=self.bus,
            clock=self.node.clock,
            identity=self.identity,
            outbox=Outbox(machine.folder / "outbox"),
            logs=LogDelivery(machine.folder / "logs", self.rest.send_log),
            trees=self.trees,
            launch=self.launcher,
            adapters=adapters,
            surroundings=Surroundings({}, FolderRoots(machine.folder / "terms", machine.folder / "scratch")),
            takeover=takeover,
            checkpoint_every_s=CHECKPOINT_EVERY_S,
            idle_limit_s=IDLE_LIMIT_S,
            drain_grace_s=DRAIN_GRACE_S,
            long_poll_s=TIMERS.long_poll_s,
        )

    def drain(self) -> None:
        if self.running is not None:
            self.process.call(self.running.drain)

    def kill(self) -> None:
        self.process.kill()
        self.launcher.factory_gone()
        self.bus.vanish()
        self._world.rest.reset(self.process)
        self.identity.release()
        self._over("killed")

    def _over(self, how: str) -> None:
        self._world.note("down", self.node.name, life=self.life, how=how)
