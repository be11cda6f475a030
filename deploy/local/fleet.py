"""A fleet of child processes in one data directory. A second start on it goes on where the first stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson

from bus.server import HOST, BrokerError, NatsServer, free_port
from deploy.local.secrets import Member, Secrets
from runtime.children import dying_with_parent
from runtime.lockfile import AlreadyLocked, LockFile

READY_WITHIN_S = 30.0
POLL_S = 0.02
EARLIER_WITHIN_S = 60.0
LOG_TAIL_LINES = 4


class LocalFleetError(Exception):
    """Why the fleet does not run, in a sentence."""


@dataclass(frozen=True)
class LocalSettings:
    """`port` and `bus_port` 0: free ones. `sandbox` None: whichever the machine has. `workspaces` and `pass_env` as
    options of a factory.
    """

    data: Path
    product_id: str = "main"
    port: int = 8080
    bus_port: int = 4222
    lease_ttl_s: float = 60.0
    checkpoint_every_s: float = 30.0
    members: tuple[Member, ...] = (Member("factory-1", ("python",), 2), Member("factory-2", ("python", "docs"), 2))
    env: Mapping[str, str] = field(default_factory=dict)
    sandbox: str | None = None
    workspaces: tuple[str, ...] = ()
    pass_env: tuple[str, ...] = ()
    entitled: tuple[str, ...] = ()  # what each factory may offer besides its own, if it finds it on the machine


class Child:
    """One process of the fleet, its output in a log file."""

    def __init__(self, name: str, argv: list[str], log_file: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log_file = log_file
        self._argv = argv
        self._env = {**os.environ, **env}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll() if self._process is not None else 0

    def start(self) -> None:
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                dying_with_parent(self._argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._env,
                start_new_session=True,  # a Ctrl-C is for the parent, which ends them in order
            )

    def signal(self, number: int) -> None:
        if self.exit_code is None:
            os.kill(self.pid, number)

    def wait(self, within_s: float) -> None:
        """Kills what does not end in time."""
        if self._process is None:
            return
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def last_words(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return " | ".join(lines) or "it said nothing"


class LocalFleet:
    """Synchronous: it only starts, watches and ends processes. `say` is told what it waits for."""

    def __init__(self, settings: LocalSettings, say: Callable[[str], None] = lambda _line: None) -> None:
        self._settings = settings
        self._say = say
        data = settings.data
        self.secrets = Secrets(data / "secrets", settings.product_id, settings.members, settings.entitled)
        self._lock: LockFile | None = None
        self.broker = NatsServer(
            data / "nats", self.secrets.broker_config(), port=settings.bus_port, die_with_parent=True
        )
        self._port = settings.port or free_port()
        self.coordinator = self._coordinator()
        self.factories = {member.id: self._factory(member) for member in settings.members}

    @property
    def product_id(self) -> str:
        return self._settings.product_id

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    def start(self) -> None:
        """Returns when everything is up. Raises LocalFleetError, and leaves nothing running then."""
        try:
            self._lock = LockFile(self._settings.data / "up.lock")
        except AlreadyLocked as held:
            raise LocalFleetError(f"a fleet runs in {self._settings.data} already, as process {held.pid}") from held
        try:
            self._check_port()
            self.broker.start()
            self.coordinator.start()
            self._await_coordinator()
            for factory in self.factories.values():
                self.await_earlier(factory.name)
                factory.start()
            self._write_client()
        except BrokerError as error:
            self.stop()
            raise LocalFleetError(str(error)) from error
        except BaseException:
            self.stop()
            raise

    def _check_port(self) -> None:
        """Another fleet there would answer in place of ours."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self._port))
            except (OSError, OverflowError) as error:
                raise LocalFleetError(f"cannot listen on {HOST}:{self._port}: {error}; name another --port") from error

    def await_earlier(self, name: str) -> None:
        """Where the one that started the fleet before was killed, its factories drain by themselves."""
        until = time.monotonic() + EARLIER_WITHIN_S
        told = False
        while time.monotonic() < until:
            try:
                LockFile(self._settings.data / "factories" / name / "factory.lock").release()
            except AlreadyLocked as held:
                if not told:
                    self._say(f"{name} of an earlier start is ending, as process {held.pid}: waiting for it")
                told = True
                time.sleep(POLL_S)
                continue
            return

    def stop(self, grace_s: float = 40.0) -> None:
        """Factories drain first, then the coordinator ends, then the broker."""
        for factory in self.factories.values():
            factory.signal(signal.SIGTERM)
        for factory in self.factories.values():
            factory.wait(grace_s)
        self.coordinator.signal(signal.SIGTERM)
        self.coordinator.wait(10.0)
        self.broker.stop()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def children(self) -> list[Child]:
        return [self.coordinator, *self.factories.values()]

    def _write_client(self) -> None:
        """Where the command line finds the fleet; the token itself stays in its own file."""
        doc = {
            "url": self.url,
            "tokenFile": str(self.secrets.operator_token_file),
            "productId": self._settings.product_id,
        }
        (self._settings.data / "client.json").write_bytes(orjson.dumps(doc))

    def _await_coordinator(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            if self.coordinator.exit_code is not None:
                raise LocalFleetError(f"the coordinator ended at once: {self.coordinator.last_words()}")
            try:
                if httpx.get(f"{self.url}/healthz", timeout=1.0, trust_env=False).is_success:
                    return
            except httpx.HTTPError:
                time.sleep(POLL_S)
        raise LocalFleetError(f"the coordinator does not answer on {self.url}: {self.coordinator.last_words()}")

    def _coordinator(self) -> Child:
        data = self._settings.data
        argv = [
            *(sys.executable, "-m", "coordinator"),
            *("--data", str(data / "store")),
            *("--listen", f"{HOST}:{self._port}"),
            *("--bus-url", self.broker.url),
            *("--bus-seed-file", str(self.secrets.coordinator_seed_file)),
            *("--enrolments", str(self.secrets.write_enrolments())),
            *("--lease-ttl", str(self._settings.lease_ttl_s)),
        ]
        return Child("coordinator", argv, data / "log" / "coordinator.log", self._settings.env)

    def _factory(self, member: Member) -> Child:
        data = self._settings.data
        capabilities = [word for name in member.capabilities for word in ("--capability", name)]
        argv = [
            *(sys.executable, "-m", "factory", member.id),
            *("--data", str(data / "factories" / member.id)),
            *("--url", self.url),
            *("--token-file", str(self.secrets.token_file(member.id))),
            *("--bus-url", self.broker.url),
            *("--bus-seed-file", str(self.secrets.seed_file(member.id))),
            *("--seats", str(member.seats)),
            *("--checkpoint-every", str(self._settings.checkpoint_every_s)),
            *("--hide", str(data)),
            *(("--sandbox", self._settings.sandbox) if self._settings.sandbox is not None else ()),
            *(word for text in self._settings.workspaces for word in ("--workspace", text)),
            *(word for name in self._settings.pass_env for word in ("--pass-env", name)),
            *capabilities,
        ]
        return Child(member.id, argv, data / "log" / f"{member.id}.log", self._settings.env)
