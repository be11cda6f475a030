"""The composition root of the coordinator: the only place that names concrete adapters."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from bus.nats import NatsBus
from bus.none import NoBus
from bus.port import Bus
from coordinator.assembly import Coordinator, assemble, running
from coordinator.enrolment_file import Enrolments, read_enrolments
from coordinator.http.app import make_app
from coordinator.store.cosmos import CosmosStore
from coordinator.store.memory import MemoryStore
from coordinator.store.port import Store, StoreError, StoreUnreachable
from coordinator.store.sqlite import SqliteStore
from coordinator.term_logs import LogFiles
from runtime.clock import SystemClock
from runtime.entropy import system_entropy
from runtime.settings import Flags, SettingsError, Timers
from schemas.errors import FleetError

log = logging.getLogger("coordinator")

STORE_RETRY_S = 2.0
SHUTDOWN_GRACE_S = 5


class StoreKind(StrEnum):
    SQLITE = "sqlite"
    MEMORY = "memory"
    COSMOS = "cosmos"


@dataclass(frozen=True)
class Settings:
    data: Path
    store: StoreKind = StoreKind.SQLITE
    listen: str = "127.0.0.1:8080"
    bus_url: str | None = None
    bus_seed: str | None = field(default=None, repr=False)
    enrolments: Enrolments = field(default_factory=Enrolments)
    timers: Timers = field(default_factory=Timers)
    flags: Flags = field(default_factory=Flags)


def make_store(settings: Settings) -> Store:
    match settings.store:
        case StoreKind.MEMORY:
            return MemoryStore()
        case StoreKind.SQLITE:
            return SqliteStore(settings.data)
        case StoreKind.COSMOS:
            endpoint, key = os.environ.get("COSMOS_ENDPOINT"), os.environ.get("COSMOS_KEY")
            if not endpoint or not key:
                raise SettingsError("the Cosmos store needs COSMOS_ENDPOINT and COSMOS_KEY in the environment")
            database = os.environ.get("COSMOS_DATABASE", "gigafactory")
            return CosmosStore(endpoint, key, database=database, timeout_s=settings.timers.store_timeout_s)


def make_bus(settings: Settings) -> Bus:
    if settings.bus_url is None:
        return NoBus()
    return NatsBus(settings.bus_url, nkey_seed=settings.bus_seed, inbox_prefix=None, name="coordinator")


def make_coordinator(settings: Settings, store: Store, bus: Bus) -> Coordinator:
    return assemble(
        store,
        bus,
        LogFiles(settings.data / "logs"),
        clock=SystemClock(),
        entropy=system_entropy(),
        timers=settings.timers,
        flags=settings.flags,
        alone=settings.store is not StoreKind.COSMOS,
    )


async def open_store(store: Store) -> None:
    """Waits for a store that does not answer yet, and logs that. Raises errors that waiting cannot mend."""
    while True:
        try:
            return await store.open()
        except StoreUnreachable as error:
            log.warning("the store does not answer, trying again in %s s: %s", STORE_RETRY_S, error)
            await asyncio.sleep(STORE_RETRY_S)


def listen_on(address: str) -> socket.socket:
    """Raises SettingsError when the address is taken or makes no sense."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise SettingsError(f"--listen {address!r}: write HOST:PORT, such as 127.0.0.1:8080")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio switches Nagle's algorithm off only where it sees that a socket is TCP's:
    # with it, each answer waits some 40 ms for the client's delayed acknowledgement.
    server = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((host.strip("[]"), int(port)))
        server.listen()  # at once: a port that is only bound can be bound by a second coordinator
    except (OSError, OverflowError) as error:
        server.close()
        why = error.strerror if isinstance(error, OSError) else "ports go up to 65535"
        raise SettingsError(f"cannot listen on {address}: {why}; free it, or name another") from error
    server.set_inheritable(False)
    return server


class _Server(uvicorn.Server):
    """Ends in order when asked to. The library's own handlers raise the signal once more at the end, which would
    kill the process before the loops and the store are closed. Calls that are held open are answered at once."""

    def __init__(self, config: uvicorn.Config, coordinator: Coordinator) -> None:
        super().__init__(config)
        self._coordinator = coordinator

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._asked_to_end, number)
        yield

    def _asked_to_end(self, number: int) -> None:
        self.handle_exit(number, None)
        self._coordinator.close()


async def serve(settings: Settings, store: Store | None = None) -> None:
    """Until SIGTERM or SIGINT. `store` is used instead of the one that the settings name."""
    server_socket = listen_on(settings.listen)
    store, bus = store or make_store(settings), make_bus(settings)
    await open_store(store)
    try:
        coordinator = make_coordinator(settings, store, bus)
        async with running(coordinator, settings.enrolments):
            if not bus.connected:
                log.warning("no bus: REST only until it is there")
            app = make_app(coordinator.ctx, coordinator.metrics)
            config = uvicorn.Config(
                app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=SHUTDOWN_GRACE_S
            )
            host, port = server_socket.getsockname()[:2]
            log.info("listening on http://%s:%s", host, port)
            await _Server(config, coordinator).serve(sockets=[server_socket])
    finally:
        await store.close()


app = typer.Typer(add_completion=False)


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="Directory for the store and logs.")] = Path(".gigafactory"),
    store: Annotated[StoreKind, typer.Option(help="sqlite (default), memory, or cosmos.")] = StoreKind.SQLITE,
    ephemeral: Annotated[bool, typer.Option(help="Allow the memory store: everything is lost at the end.")] = False,
    listen: Annotated[str, typer.Option(help="HOST:PORT for REST.")] = "127.0.0.1:8080",
    bus_url: Annotated[str | None, typer.Option(help="nats://HOST:PORT; without it: REST only.")] = None,
    bus_seed_file: Annotated[Path | None, typer.Option(help="File with the coordinator's nkey seed.")] = None,
    enrolments: Annotated[Path | None, typer.Option(help="JSON file of operators and factories.")] = None,
    lease_ttl: Annotated[float, typer.Option(help="Lease TTL in seconds; the other timers follow.")] = 60.0,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Runs one coordinator until SIGTERM or SIGINT."""
    try:
        logging.basicConfig(
            level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
        )
        logging.getLogger("azure").setLevel(logging.WARNING)
        if store is StoreKind.MEMORY and not ephemeral:
            raise SettingsError("the memory store loses everything at the end: say --ephemeral if that is meant")
        settings = Settings(
            data=data,
            store=store,
            listen=listen,
            bus_url=bus_url,
            bus_seed=bus_seed_file.read_text().strip() if bus_seed_file else None,
            enrolments=read_enrolments(enrolments) if enrolments else Enrolments(),
            timers=Timers.for_lease_ttl(lease_ttl),
            flags=Flags.from_env(),
        )
        asyncio.run(serve(settings))
    except (SettingsError, StoreError, FleetError, ValueError, OSError) as error:
        typer.echo(f"coordinator: {error}", err=True)
        raise typer.Exit(1) from None


def cli() -> None:
    app(prog_name="coordinator")
