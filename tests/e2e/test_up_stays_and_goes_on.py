"""`gigafactory up` as a person uses it: it stays, Ctrl-C ends all of it, and the next one goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest

from bus.server import HOST, free_port
from tests.support.fleet import manifest
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("processes")


class Up:
    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self.output = directory / "output"
        self.bus_port = free_port()
        self._argv = [
            *(sys.executable, "-m", "console.cli", "up", "--data", str(self.data)),
            *("--port", str(free_port()), "--bus-port", str(self.bus_port)),
        ]
        self.process: psutil.Popen | None = None

    def start(self) -> None:
        with self.output.open("ab") as output:
            self.process = psutil.Popen(self._argv, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    async def is_up(self, times: int = 1) -> None:
        await eventually(lambda: self.output.read_text().count("the fleet is up") == times, within_s=60.0)

    async def in_session(self, factory_id: str, above: int = 0) -> tuple[int, int]:
        """(session number, pid) once a session above that number is heard of. The pid is the one in the factory's
        lock: the command line of a process that is between two programs is empty.
        """
        rows: list[dict[str, Any]] = []

        def heard() -> bool:
            with self.client() as client:
                rows[:] = client.get("/api/fleet/factories").json()["factories"]
            return any(row["id"] == factory_id and row["sessionNo"] > above for row in rows)

        await eventually(heard, within_s=60.0)
        (number,) = (int(row["sessionNo"]) for row in rows if row["id"] == factory_id)
        return number, int((self.data / "factories" / factory_id / "factory.lock").read_text())

    def family(self) -> list[psutil.Process]:
        assert self.process is not None
        return list(self.process.children(recursive=True))

    def end(self, number: int = signal.SIGINT) -> int:
        assert self.process is not None
        self.process.resume()  # a test that failed may have left it stopped
        self.process.send_signal(number)
        return int(self.process.wait(60))

    def client(self) -> httpx.Client:
        left = orjson.loads((self.data / "client.json").read_bytes())
        headers = {
            "Authorization": f"Bearer {Path(left['tokenFile']).read_text().strip()}",
            "x-product-id": left["productId"],
        }
        return httpx.Client(base_url=left["url"], headers=headers, trust_env=False)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    up = Up(tmp_path)
    up.start()
    yield up
    if up.process is not None and up.process.poll() is None:
        up.end(signal.SIGTERM)


async def test_a_job_is_run_ctrl_c_ends_everything_and_the_next_up_goes_on(up: Up) -> None:
    await up.is_up()
    with up.client() as client:
        headers = {"Idempotency-Key": "k1", "content-type": "text/markdown"}
        raw = manifest("```sh\necho hello\n```\n", verify='"true"')
        job_id = client.post("/api/fleet/jobs", content=raw, headers=headers).json()["job"]["id"]
        await eventually(
            lambda: client.get(f"/api/fleet/jobs/{job_id}").json()["job"]["stage"] == "shipped", within_s=30.0
        )
        assert client.get("/readyz").json() == {"status": "ok", "store": "ok", "bus": "ok"}
    family = up.family()
    assert len(family) >= 4
    assert up.end() == 0
    assert [process.pid for process in family if process.is_running()] == []
    assert "ended; the next `up` on this directory goes on" in up.output.read_text()
    up.start()
    await up.is_up(times=2)
    with up.client() as client:
        assert client.get(f"/api/fleet/jobs/{job_id}").json()["job"]["stage"] == "shipped"


async def test_secrets_are_files_for_their_owner_alone_and_on_no_command_line(up: Up) -> None:
    await up.is_up()
    for factory_id in ("factory-1", "factory-2"):
        await up.in_session(factory_id)
    secrets = up.data / "secrets"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o600}
    texts = [path.read_text().strip() for path in secrets.iterdir() if path.suffix in (".token", ".nkey")]
    assert len(texts) >= 6
    shown = up.output.read_text() + "".join(path.read_text() for path in (up.data / "log").iterdir())
    shown += (up.data / "nats" / "nats-server.conf").read_text() + (secrets / "enrolments.json").read_text()
    shown += " ".join(word for process in up.family() for word in process.cmdline())
    assert [text for text in texts if text in shown] == []


async def test_a_second_up_on_the_same_directory_is_told_who_runs_there(up: Up) -> None:
    await up.is_up()
    argv = [sys.executable, "-m", "console.cli", "up", "--data", str(up.data), "--port", "0", "--bus-port", "0"]
    second = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False, timeout=30)
    assert second.returncode == 1
    assert up.process is not None
    assert f"already, as process {up.process.pid}" in second.stderr


async def test_a_port_where_somebody_else_listens_is_told_and_ends_it(tmp_path: Path) -> None:
    """Another fleet there would answer the question whether this one is up."""
    with socket.create_server((HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        argv = [sys.executable, "-m", "console.cli", "up", "--data", str(tmp_path / "d"), "--port", port]
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert f"cannot listen on {HOST}:{port}" in done.stderr
    assert "--port" in done.stderr


async def test_the_command_that_up_prints_works_as_it_stands(up: Up, tmp_path: Path) -> None:
    await up.is_up()
    (line,) = [line for line in up.output.read_text().splitlines() if line.startswith("try:")]
    command = shlex.split(line.partition(":")[2])
    (tmp_path / "JOB.md").write_bytes(manifest())
    argv = [sys.executable, "-m", "console.cli", *command[1:]]
    done = await asyncio.to_thread(
        subprocess.run, argv, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")


async def test_what_dies_is_started_again(up: Up) -> None:
    await up.is_up()
    first, pid = await up.in_session("factory-1")
    os.kill(pid, signal.SIGKILL)
    second, new_pid = await up.in_session("factory-1", above=first)
    assert (second, new_pid != pid) == (first + 1, True)
    await eventually(lambda: f"factory-1 runs again, as process {new_pid}" in up.output.read_text())
    assert f"factory-1 ended with {-signal.SIGKILL}" in up.output.read_text()


async def test_a_broker_that_cannot_start_yet_is_tried_again(up: Up) -> None:
    await up.is_up()
    assert up.process is not None
    (broker,) = (process for process in up.process.children() if process.name() == "nats-server")
    up.process.suspend()  # it must not be faster than the other program
    broker.kill()
    with socket.socket() as other_program:
        other_program.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        def takes_its_port() -> bool:
            with contextlib.suppress(OSError):  # the last of its threads has not ended yet
                other_program.bind((HOST, up.bus_port))
                return True
            return False

        await eventually(takes_its_port)
        other_program.listen()
        up.process.resume()
        await eventually(
            lambda: "nats-server does not start, and is tried again" in up.output.read_text(), within_s=30.0
        )
    with up.client() as client:
        await eventually(lambda: client.get("/readyz").json()["bus"] == "ok", within_s=30.0)
    assert up.process.poll() is None
