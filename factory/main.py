"""The composition root of a factory."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import psutil
import typer

from bus.nats import NatsBus
from bus.none import NoBus
from bus.port import Bus
from bus.subjects import client_name, inbox_prefix
from factory.detect import detected_here
from factory.engines.port import EngineAdapter
from factory.engines.shell import ShellEngine
from factory.git.environment import FACTORY, freeze_global_config
from factory.identity import Identity
from factory.life import Life, Parts
from factory.link.bus import BusLink
from factory.link.failover import FailoverLink
from factory.link.log_link import LogLink
from factory.link.rest import RestLink
from factory.log_delivery import LogDelivery
from factory.marked import end_marked
from factory.opening import FencedSession, MachineWords
from factory.outbox import Outbox
from factory.ports import Launch, Place, Vitals
from factory.process import EngineProcess, end_left_over_launchers
from factory.prune import Pruner
from factory.ref_sweeper import RefSweeper
from factory.session import Session
from factory.surroundings.folders import FolderRoots, scratch_root
from factory.surroundings.sandbox import Mode, Sandbox, chosen
from factory.surroundings.surroundings import Surroundings
from factory.surroundings.variables import check_pattern, machine_variables
from factory.workspace.removal import remove_folder
from factory.workspace.source import named_folder
from factory.workspace.workspaces import Workspaces
from runtime.clock import SystemClock
from runtime.entropy import system_entropy
from runtime.lockfile import AlreadyLocked
from runtime.loop import cancel
from runtime.settings import Timers
from schemas.errors import FleetError
from schemas.ids import check_name
from schemas.work import Engine

log = logging.getLogger("factory")

DEFAULT_DATA = Path(".gigafactory")
EXIT_FENCED = 78  # EX_CONFIG: something about this machine must be put right before another start
ADAPTERS: tuple[EngineAdapter, ...] = (ShellEngine(),)


@dataclass(frozen=True)
class Settings:
    factory_id: str
    data: Path
    url: str
    token: str = field(repr=False)
    bus_url: str | None = None
    bus_seed: str | None = field(default=None, repr=False)
    capabilities: tuple[str, ...] = ()
    seats: int = 1
    workspaces: tuple[tuple[str, Path], ...] = ()
    takeover: bool = False
    rpc_timeout_s: float = Timers.rpc_timeout_s
    rest_timeout_s: float = Timers.rest_timeout_s
    long_poll_s: float = Timers.long_poll_s
    checkpoint_every_s: float = Timers.checkpoint_every_s
    idle_limit_s: float | None = None
    drain_grace_s: float = Timers.drain_grace_s
    keep_s: float = Timers.keep_s
    keep_refs_s: float = Timers.keep_refs_s
    detect: bool = True
    sandbox: Mode = Mode.OFF
    hidden: tuple[Path, ...] = ()
    shown: tuple[Path, ...] = ()
    own_home: bool = False
    pass_env: tuple[str, ...] = ()

    @property
    def scratch(self) -> Path:
        return scratch_root(self.data, os.environ)


def found_engines() -> dict[Engine, EngineAdapter]:
    """Those that can run here; the others are said to be absent and never offered."""
    found = {}
    for adapter in ADAPTERS:
        missing = adapter.missing()
        if missing is None:
            found[adapter.name] = adapter
        else:
            log.warning("engine %s is absent: %s", adapter.name, missing)
    for name in sorted(set(Engine) - {adapter.name for adapter in ADAPTERS}):
        log.info("engine %s is absent: this release has no adapter for it", name)
    return found


def make_bus(settings: Settings, session_id: str) -> Bus:
    if settings.bus_url is None:
        return NoBus()
    return NatsBus(
        settings.bus_url,
        nkey_seed=settings.bus_seed,
        inbox_prefix=inbox_prefix(settings.factory_id),
        name=client_name(settings.factory_id, session_id),
    )


@dataclass(frozen=True)
class Edges:
    """Where a factory meets the world. A recorder puts these into others that do the same."""

    bus: Callable[[Settings, str], Bus] = make_bus
    bus_link: Callable[[Bus, str, float], BusLink] = BusLink
    rest_link: Callable[[str, str, float], RestLink] = RestLink
    trees: Callable[[Path, Mapping[str, Path], Place | None], Workspaces] = Workspaces
    launch: Launch = EngineProcess.start


async def run(settings: Settings, edges: Edges | None = None) -> None:
    """Raises AlreadyLocked, FencedSession, or FleetError where the coordinator refuses this factory."""
    edges = edges or Edges()
    identity = Identity(settings.data)
    entropy = system_entropy()
    session_id = entropy.token()
    bus = edges.bus(settings, session_id)
    rest = edges.rest_link(settings.url, settings.token, settings.rest_timeout_s)
    pruning: asyncio.Task[None] | None = None
    try:
        left_over = await end_left_over_launchers(settings.data / "terms")
        if left_over:
            log.warning("%d engine(s) of an earlier session are ended", left_over)
        if await end_marked(FACTORY, str(settings.data)):
            log.warning("git of an earlier session is ended")
        os.environ[FACTORY] = str(settings.data)
        freeze_global_config(settings.data / "gitconfig")
        if settings.scratch.exists():  # of terms that nobody will go on with
            await asyncio.to_thread(remove_folder, settings.scratch)
        await bus.start()
        surroundings = surroundings_of(settings)
        workspaces = edges.trees(settings.data / "work", dict(settings.workspaces), surroundings.place)
        kept = await workspaces.set_aside_left_over()
        if kept:
            log.warning("%d tree(s) of an earlier session are kept in quarantine", kept)
        link = FailoverLink(edges.bus_link(bus, settings.factory_id, settings.rpc_timeout_s), rest)
        bus.on_change(link.bus_changed)
        session = Session(settings.factory_id, link, SystemClock(), entropy, session_id)
        logs = LogLink(bus, settings.factory_id, settings.rpc_timeout_s, rest.send_log)
        parts = _parts(settings, identity, session, link, bus, workspaces, edges.launch, logs, surroundings)
        life = Life(parts)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError):  # Windows has no such handlers: Ctrl-C ends it at once
                loop.add_signal_handler(number, life.drain)
        refs = RefSweeper(workspaces, rest.ended_jobs, settings.keep_refs_s)
        pruner = Pruner(settings.data, workspaces, life.is_live, SystemClock(), settings.keep_s, refs)
        pruning = asyncio.create_task(pruner.run(), name="pruning")
        await life.run()
    finally:
        if pruning is not None:
            await cancel(pruning)
        await bus.close()
        await rest.close()
        with suppress(OSError):  # trees of terms may be in it still
            settings.scratch.rmdir()
        identity.release()


def _parts(
    settings: Settings,
    identity: Identity,
    session: Session,
    link: FailoverLink,
    bus: Bus,
    workspaces: Workspaces,
    launch: Launch,
    logs: LogLink,
    surroundings: Surroundings,
) -> Parts:
    adapters = found_engines()
    machine = MachineWords(
        capabilities=tuple(sorted({*settings.capabilities, *surroundings.mode.capabilities})),
        engines=tuple(adapters),
        workspaces=workspaces.roots,
        seats=settings.seats,
        vitals=lambda: vitals_of(settings.data),
        os_name=platform.system().lower(),
        detected=detected_here() if settings.detect else (),
    )
    return Parts(
        machine=machine,
        session=session,
        link=link,
        bus=bus,
        clock=SystemClock(),
        identity=identity,
        outbox=Outbox(settings.data / "outbox"),
        logs=LogDelivery(settings.data / "logs", logs.send),
        trees=workspaces,
        launch=launch,
        adapters=adapters,
        surroundings=surroundings,
        takeover=settings.takeover,
        checkpoint_every_s=settings.checkpoint_every_s,
        idle_limit_s=settings.idle_limit_s,
        drain_grace_s=settings.drain_grace_s,
        long_poll_s=settings.long_poll_s,
    )


def surroundings_of(settings: Settings) -> Surroundings:
    variables = machine_variables(os.environ, settings.pass_env)
    sandbox = None
    if settings.sandbox is not Mode.OFF:
        home = Path(os.environ.get("HOME") or Path.home()).resolve()
        hidden = (settings.data, settings.scratch, *settings.hidden)
        sandbox = Sandbox(settings.sandbox, tuple(path.resolve() for path in hidden), settings.shown, home)
    folders = FolderRoots(settings.data / "terms", settings.scratch)
    return Surroundings(variables, folders, sandbox, settings.own_home)


def vitals_of(folder: Path) -> Vitals:
    """`folder`: on the disk that the work is done on."""
    return Vitals(psutil.getloadavg()[0] / (psutil.cpu_count() or 1), int(psutil.disk_usage(str(folder)).free))


def _told(asked: Mode | None) -> Mode:
    mode, why = chosen(asked)
    if why is not None:
        log.warning("no sandbox: %s; a job can read and change all that this user can", why)
    else:
        log.info("sandbox: %s", mode)
    return mode


def _hidden(data: Path | None, asked: Sequence[Path], *secrets: Path | None) -> tuple[Path, ...]:
    """`data` None: the factory lives beside the others of this user, in one folder that is the fleet's."""
    for path in asked:
        if not path.expanduser().exists() or str(path) == ".":
            raise ValueError(f"--hide {path}: there is nothing of that name")
    fleets = [DEFAULT_DATA] if data is None else []
    return tuple(path.expanduser().resolve() for path in (*fleets, *asked, *secrets) if path is not None)


def _is_own_home(text: str) -> bool:
    if text not in ("shared", "term"):
        raise ValueError(f"--home {text}: write shared or term")
    return text == "term"


app = typer.Typer(add_completion=False)
T = Timers  # the defaults


@app.command()
def main(
    factory_id: Annotated[str, typer.Argument(help="The id that this factory was enrolled under.")],
    url: Annotated[str, typer.Option(envvar="AQ_FLEET_API", help="The coordinator's URL.")] = "http://127.0.0.1:8080",
    token_file: Annotated[Path | None, typer.Option(help="File with the factory's token; or AQ_FLEET_TOKEN.")] = None,
    token: Annotated[str | None, typer.Option(envvar="AQ_FLEET_TOKEN", hidden=True)] = None,
    data: Annotated[Path | None, typer.Option(help="Directory for its state and worktrees.")] = None,
    bus_url: Annotated[str | None, typer.Option(help="nats://HOST:PORT; without it: REST only.")] = None,
    bus_seed_file: Annotated[Path | None, typer.Option(help="File with the factory's nkey seed.")] = None,
    capability: Annotated[list[str] | None, typer.Option(help="What this machine can do; repeat it.")] = None,
    detect: Annotated[bool, typer.Option(help="Look at the machine for more of what it is enrolled for.")] = True,
    seats: Annotated[int, typer.Option(min=1, max=256, help="Jobs that it can run at once.")] = 1,
    workspace: Annotated[list[str] | None, typer.Option(help="/path/as/in/manifests=/folder/here; repeat it.")] = None,
    takeover: Annotated[
        bool, typer.Option(help="Replace whichever session there is, even one that seems alive.")
    ] = False,
    rpc_timeout: Annotated[
        float, typer.Option(help="Seconds before a bus request is repeated over REST.")
    ] = T.rpc_timeout_s,
    long_poll: Annotated[float, typer.Option(help="Seconds that a claim over REST waits for work.")] = T.long_poll_s,
    checkpoint_every: Annotated[float, typer.Option(help="Seconds between checkpoints.")] = T.checkpoint_every_s,
    idle_limit: Annotated[
        float | None, typer.Option(min=1, help="Seconds of silence after which a job is ended; without it, none.")
    ] = None,
    drain_grace: Annotated[float, typer.Option(help="Seconds that running jobs get after SIGTERM.")] = T.drain_grace_s,
    sandbox: Annotated[
        Mode | None,
        typer.Option(help="How a job is kept from the rest of the machine; by default a veil where it works."),
    ] = None,
    hide: Annotated[
        list[Path] | None, typer.Option(help="A file or folder that no job may see in its sandbox; repeat it.")
    ] = None,
    show: Annotated[
        list[Path] | None, typer.Option(help="One to be seen all the same, such as ~/.nvm in a strict one; repeat it.")
    ] = None,
    home: Annotated[
        str, typer.Option(help="shared: jobs have the HOME of this user; term: each term has one of its own.")
    ] = "shared",
    pass_env: Annotated[
        list[str] | None, typer.Option(help="A variable that jobs get, or its beginning and a *; repeat it.")
    ] = None,
    keep_days: Annotated[float, typer.Option(min=0, help="Days that finished trees and term folders are kept.")] = 7.0,
    keep_refs_days: Annotated[
        float, typer.Option(min=0, help="Days after a job's end that refs/gigafactory/JOB stays in its source.")
    ] = 30.0,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Runs one factory until it is drained (SIGTERM), or fenced by a newer session (exit code 78)."""
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    secret = token_file.read_text().strip() if token_file else token
    if not secret:
        raise typer.BadParameter("no token: give --token-file, or AQ_FLEET_TOKEN")
    if not shutil.which("git"):
        raise typer.BadParameter("git is not on PATH: install it")
    try:
        settings = Settings(
            factory_id=check_name(factory_id),
            data=(data or DEFAULT_DATA / factory_id).resolve(),
            url=url,
            token=secret,
            bus_url=bus_url,
            bus_seed=bus_seed_file.read_text().strip() if bus_seed_file else None,
            capabilities=tuple(sorted({check_name(name) for name in capability or []})),
            seats=seats,
            workspaces=tuple(named_folder(text) for text in workspace or []),
            takeover=takeover,
            rpc_timeout_s=rpc_timeout,
            long_poll_s=long_poll,
            checkpoint_every_s=checkpoint_every,
            idle_limit_s=idle_limit,
            drain_grace_s=drain_grace,
            keep_s=keep_days * 24 * 3600,
            keep_refs_s=keep_refs_days * 24 * 3600,
            detect=detect,
            sandbox=_told(sandbox),
            hidden=_hidden(data, hide or (), token_file, bus_seed_file),
            shown=tuple(path.expanduser().resolve() for path in show or ()),
            own_home=_is_own_home(home),
            pass_env=tuple(check_pattern(pattern) for pattern in pass_env or ()),
        )
        asyncio.run(run(settings))
    except FencedSession as error:
        typer.echo(f"factory {factory_id}: {error}", err=True)
        raise typer.Exit(EXIT_FENCED) from None
    except (AlreadyLocked, FleetError, ValueError) as error:
        typer.echo(f"factory {factory_id}: {error}", err=True)
        raise typer.Exit(1) from None


def cli() -> None:
    app(prog_name="factory")
