"""A fleet of real processes to be broken: broker, store, coordinators, factories, clients, and the way between them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import orjson

from bus.nats import NatsBus
from bus.port import Message
from bus.server import HOST, NatsServer
from bus.subjects import offer_subject
from chaos.history import History, Record
from chaos.live import coordinator as seen_coordinator
from chaos.live.cosmos_server import CosmosServer
from chaos.live.documents import documents_of
from chaos.live.engines import EngineWatch
from chaos.live.factory import FactorySpec, NotedRestLink
from chaos.live.processes import READY_WITHIN_S, LiveCoordinator, LiveError, LiveMachine
from chaos.live.proxy import TcpProxy
from chaos.live.recorder import Recorder, gathered
from chaos.recording import AskRecorder, told_timers
from chaos.rest_client import Pace, RestClient
from coordinator.store.cosmos import CosmosStore
from coordinator.store.sqlite import SqliteStore
from deploy.local.fleet import Child
from deploy.local.secrets import Member, Secrets
from runtime.clock import SystemClock
from runtime.settings import Timers

PRODUCT = "main"
CAPABILITY = "gpu"
HERD_CAPABILITY = "herd"
DATABASE = "chaos"
ENDED_LOOK_S = 0.1
CHECKPOINT_EVERY_S = 1.0
REST_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Shape:
    """`standby`: factories that are enrolled and not started. `hive`: factories that share two processes. `herd`: those
    of which there is nothing but a token. `links`: each factory has proxies of its own to the bus and to REST, each
    coordinator to the bus and to the store. `factory_module`: what factories run.
    """

    store: Literal["cosmos", "sqlite"] = "cosmos"
    coordinators: int = 2
    factories: int = 10
    standby: int = 0
    clients: int = 2
    hive: int = 0
    herd: int = 0
    links: bool = False
    lease_ttl_s: float = 10.0
    factory_module: str = "chaos.live.factory"

    @property
    def timers(self) -> Timers:
        return Timers.for_lease_ttl(self.lease_ttl_s)


class LiveFleet:
    def __init__(self, shape: Shape, folder: Path, seed: int) -> None:
        self.shape = shape
        self.folder = folder
        self.chance = random.Random(seed)
        self.lives = 0
        for name in ("history", "specs", "log"):
            (folder / name).mkdir(parents=True)
        self.recorder = Recorder(folder / "history" / "world.jsonl", time.monotonic())
        self.note = self.recorder.note
        self.members = _members(shape)
        self.secrets = Secrets(folder / "secrets", PRODUCT, tuple(self.members.values()))
        self.enrolments = self.secrets.write_enrolments()
        self.broker = NatsServer(folder / "nats", self.secrets.broker_config(), die_with_parent=True)
        self.cosmos = CosmosServer(events=folder / "commits")
        self.nodes = [LiveCoordinator(self, number) for number in range(1, shape.coordinators + 1)]
        self.balancer = TcpProxy([node.port for node in self.nodes])
        self.machines = {
            f"f{number}": LiveMachine(self, self.members[f"f{number}"])
            for number in range(1, shape.factories + shape.standby + 1)
        }
        self.twins: list[LiveMachine] = []
        self.engines = EngineWatch(self.note, PRODUCT)
        self.links: list[TcpProxy] = [self.balancer]
        self.ear = NatsBus(
            self.broker.url, nkey_seed=self._seed(self.secrets.coordinator_seed_file), inbox_prefix=None, name="chaos"
        )
        self.hive: list[Child] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.balancer.port}"

    def next_life(self) -> int:
        self.lives += 1
        return self.lives

    def now_s(self) -> float:
        return self.recorder.now_s()

    def running(self) -> list[LiveMachine]:
        """Factories that are up and not stopped."""
        return [machine for machine in self.machines.values() if machine.up and not machine.stopped]

    def holders(self, jobs: Collection[str] | None = None) -> list[LiveMachine]:
        """Those of them in which an engine runs, of these jobs or of any."""
        holders = self.engines.holders(jobs)
        return [machine for machine in self.running() if machine.id in holders]

    # -- beginning and end --

    async def start(self) -> None:
        self._note_fleet()
        self.broker.start()
        if self.shape.store == "cosmos":
            await asyncio.to_thread(self.cosmos.start)
        await self.balancer.start()
        await self.engines.start()
        if self.shape.links:
            await self._make_links()
        await self.ear.start()
        await self._listen()
        await self.nodes[0].start()  # it makes the containers
        await asyncio.gather(*(node.start() for node in self.nodes[1:]))
        for number in range(1, self.shape.factories + 1):
            self.machines[f"f{number}"].start()
        for number in range(1, self.shape.clients + 1):
            self._tasks.append(asyncio.create_task(self._client(f"r{number}").live()))
        self._tasks.append(asyncio.create_task(self._look()))
        await self.until_joined()

    async def until_joined(self) -> None:
        """Until every factory that was started has a session, and is on the bus where there is one."""
        wanted = {machine.id for machine in self.machines.values() if machine.up}
        wanted |= {name for name in self.members if name.startswith("h") and self.hive}
        deadline_s = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline_s:
            joined = await self._on_bus()
            if wanted <= joined:
                return
            await asyncio.sleep(0.1)
        raise LiveError(f"not on the bus: {sorted(wanted - joined)}")

    async def _on_bus(self) -> set[str]:
        found: set[str] = set()
        with contextlib.suppress(httpx.HTTPError):
            async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
                answer = await client.get(f"{self.url}/api/fleet/factories", headers=self.operator_headers)
                rows = answer.json()["factories"] if answer.is_success else []
                found = {row["id"] for row in rows if row["sessionNo"] > 0 and row["transport"] == "bus"}
        return found

    @property
    def operator_headers(self) -> dict[str, str]:
        token = self.secrets.operator_token_file.read_text().strip()
        return {"Authorization": f"Bearer {token}", "x-product-id": PRODUCT}

    async def stop(self) -> None:
        """Everything ends, recorded or not; documents are read before."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for machine in (*self.machines.values(), *self.twins):
            machine.end()
        for child in self.hive:
            child.signal(signal.SIGKILL)
            child.wait(5.0)
        await asyncio.gather(*(node.end() for node in self.nodes))
        await self.ear.close()
        for link in self.links:
            await link.stop()
        await self.engines.stop()
        self.broker.stop()
        await asyncio.to_thread(self.cosmos.stop)
        self.recorder.close()

    async def end_processes_and_read(self) -> dict[str, list[dict[str, Any]]]:
        """What the store holds when nobody writes to it any more."""
        for task in self._tasks:
            task.cancel()
        for machine in (*self.machines.values(), *self.twins):
            machine.end()
        for child in self.hive:
            child.signal(signal.SIGKILL)
        await asyncio.gather(*(node.end() for node in self.nodes))
        if self.shape.store == "sqlite":
            return await documents_of(SqliteStore(self.folder / "store"))
        return await documents_of(CosmosStore(self.cosmos.endpoint, self.cosmos.key, database=DATABASE, timeout_s=10.0))

    def history(self) -> History:
        """All parts, up to the end of the run."""
        history = gathered(self.folder / "history")
        commits = self.folder / "commits"
        if commits.exists():
            for line in commits.read_bytes().splitlines():
                doc = orjson.loads(line)
                history.records.append(Record(round(doc.pop("at") - self.recorder.began_s, 6), "seen", "world", doc))
            history.records.sort(key=lambda record: record.at)
        over = next((record.at for record in history.of("converged", "gave_up")), None)
        if over is not None:
            history.records = [record for record in history.records if record.at <= over]
        return history

    def twin_of(self, machine: LiveMachine) -> LiveMachine:
        """A second machine with the same identity, not started."""
        twin = LiveMachine(self, machine.member, where="-twin")
        twin.bus_link, twin.rest_link = machine.bus_link, machine.rest_link
        self.twins.append(twin)
        return twin

    # -- faults --

    @asynccontextmanager
    async def fault(self, name: str, on: str, **how: Any) -> AsyncIterator[None]:
        self.note("fault", "world", name=name, does="begins", on=on, **how)
        try:
            yield
        finally:
            self.note("fault", "world", name=name, does="ends", on=on)

    def once(self, name: str, on: str) -> None:
        self.note("fault", "world", name=name, does="once", on=on)

    # -- parts --

    def _note_fleet(self) -> None:
        self.note("fleet", "world", timers=told_timers(self.shape.timers), budgets=False)
        for member in self.members.values():
            self.note(
                "enrolled", "world", factoryId=member.id, products=[PRODUCT], capabilities=list(member.capabilities)
            )

    async def _make_links(self) -> None:
        for machine in self.machines.values():
            machine.bus_link = TcpProxy([self.broker.port])
            machine.rest_link = TcpProxy([node.port for node in self.nodes])
            self.links += [machine.bus_link, machine.rest_link]
        for node in self.nodes:
            node.bus_link = TcpProxy([self.broker.port])
            self.links.append(node.bus_link)
            if self.shape.store == "cosmos":
                node.store_link = TcpProxy([int(self.cosmos.endpoint.rpartition(":")[2])])
                self.links.append(node.store_link)
        await asyncio.gather(*(link.start() for link in self.links))

    async def _listen(self) -> None:
        def heard(message: Message) -> None:
            offer = orjson.loads(message.data)
            self.note("offered", "world", **{name: offer[name] for name in ("productId", "jobId", "leaseEpoch")})

        for capability in ("any", CAPABILITY):
            await self.ear.subscribe(offer_subject(PRODUCT, capability), heard)

    async def _look(self) -> None:
        while True:
            for machine in (*self.machines.values(), *self.twins):
                machine.look()
            await asyncio.sleep(ENDED_LOOK_S)

    def _client(self, name: str) -> RestClient:
        token = self.secrets.token_file(name).read_text().strip()
        life = self.next_life()
        timers = self.shape.timers
        return RestClient(
            name,
            self.members[name].capabilities,
            link=NotedRestLink(
                self.url, token, REST_TIMEOUT_S, f"factory:{name}", AskRecorder(self.note, prefix=f"{name}/{life}/")
            ),
            clock=SystemClock(),
            note=self.note,
            chance=self.chance,
            life=life,
            pace=Pace(timers.lease_ttl_s / 4, timers.trust_margin_s, (0.2, 1.0, 3.0), wait_s=2.0),
        )

    def start_hive(self) -> None:
        names = sorted(name for name in self.members if name.startswith("h"))
        for group in (names[::2], names[1::2]):  # one process for each core
            if group:
                machines = [LiveMachine(self, self.members[name]) for name in group]
                for machine in machines:
                    machine.life = self.next_life()
                self.hive.append(self.factory_child(machines, f"hive-{group[0]}"))
                self.hive[-1].start()

    def coordinator_child(self, node: LiveCoordinator) -> Child:
        log = self.folder / "log" / f"{node.id}.log"
        bus_port = node.bus_link.port if node.bus_link else self.broker.port
        if self.shape.store == "sqlite":
            spec = seen_coordinator.CoordinatorSpec(
                data=str(self.folder / "store"),
                listen=f"{HOST}:{node.port}",
                bus_url=f"nats://{HOST}:{bus_port}",
                bus_seed_file=str(self.secrets.coordinator_seed_file),
                enrolments=str(self.enrolments),
                lease_ttl_s=self.shape.lease_ttl_s,
                record=str(self.folder / "history" / f"{node.id}.jsonl"),
                began_s=self.recorder.began_s,
                max_pages=node.max_pages,
            )
            argv = [sys.executable, "-m", "chaos.live.coordinator", str(self._spec(node.id, asdict(spec)))]
            return Child(node.id, argv, log, {})
        argv = [
            *(sys.executable, "-m", "coordinator", "--store", "cosmos"),
            *("--data", str(self.folder / node.id)),
            *("--listen", f"{HOST}:{node.port}"),
            *("--bus-url", f"nats://{HOST}:{bus_port}"),
            *("--bus-seed-file", str(self.secrets.coordinator_seed_file)),
            *("--enrolments", str(self.enrolments)),
            *("--lease-ttl", str(self.shape.lease_ttl_s)),
        ]
        endpoint = f"http://{HOST}:{node.store_link.port}" if node.store_link else self.cosmos.endpoint
        env = {"COSMOS_ENDPOINT": endpoint, "COSMOS_KEY": self.cosmos.key, "COSMOS_DATABASE": DATABASE}
        return Child(node.id, argv, log, env)

    def factory_child(self, machines: list[LiveMachine], name: str, *, takeover: bool = False) -> Child:
        specs = [
            FactorySpec(
                factory_id=machine.id,
                life=machine.life,
                data=str(self.folder / "factories" / f"{machine.id}{machine.where}"),
                url=f"http://{HOST}:{machine.rest_link.port}" if machine.rest_link else self.url,
                token_file=str(self.secrets.token_file(machine.id)),
                bus_url=f"nats://{HOST}:{machine.bus_link.port if machine.bus_link else self.broker.port}",
                bus_seed_file=str(self.secrets.seed_file(machine.id)),
                capabilities=machine.member.capabilities,
                seats=machine.member.seats,
                long_poll_s=self.shape.timers.long_poll_s,
                checkpoint_every_s=CHECKPOINT_EVERY_S,
                record=str(self.folder / "history" / f"{name}.jsonl"),
                began_s=self.recorder.began_s,
                takeover=takeover,
            )
            for machine in machines
        ]
        file = self._spec(name, [asdict(spec) for spec in specs])
        return Child(
            name, [sys.executable, "-m", self.shape.factory_module, str(file)], self.folder / "log" / f"{name}.log", {}
        )

    def _spec(self, name: str, doc: Any) -> Path:
        path = self.folder / "specs" / f"{name}.json"
        path.write_bytes(orjson.dumps(doc))
        return path

    @staticmethod
    def _seed(path: Path) -> str:
        return path.read_text().strip()


def _members(shape: Shape) -> dict[str, Member]:
    """Every third factory has the rare capability; every second of those in a process of their own has two seats."""

    def named(letter: str, count: int) -> list[str]:
        return [f"{letter}{number}" for number in range(1, count + 1)]

    several = [*named("f", shape.factories + shape.standby), *named("r", shape.clients), *named("h", shape.hive)]
    members = {}
    for number, name in enumerate(several):
        seats = 2 if name.startswith("f") and number % 2 else 1
        members[name] = Member(name, (CAPABILITY,) if number % 3 == 0 else (), seats)
    return members | {name: Member(name, (HERD_CAPABILITY,)) for name in named("q", shape.herd)}
