"""Inside a sandbox an engine ends as it does outside: with its deadline, its factory, its launcher, daemons and all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import psutil
import pytest

from factory.ports import Worktree
from factory.process import LAUNCHER, MARK, EngineProcess
from factory.surroundings.folders import TermFolders
from factory.surroundings.sandbox import Mode, Sandbox, missing
from factory.surroundings.variables import machine_variables
from runtime.clock import SystemClock
from tests.support.waiting import eventually

LACKING = missing(Mode.STRICT)
pytestmark = [
    pytest.mark.xdist_group("processes"),
    pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
]
WITHIN_S = 20.0
BOTH = pytest.mark.parametrize("mode", [Mode.VEIL, Mode.STRICT])
DAEMONS = "(trap '' TERM; setsid sh -c 'while :; do echo x >> beats; sleep 0.05; done' &) ; trap '' TERM; sleep 600"

FACTORY = """
import asyncio, json, os, sys
from pathlib import Path
from factory.process import EngineProcess
from runtime.clock import SystemClock

async def main(order):
    left_s = order["left"]
    engine = await EngineProcess.start(tuple(order["argv"]), cwd=Path(order["cwd"]), env=order["env"],
        control=Path(order["control"]), deadline_s=SystemClock().boot_s() + left_s, on_output=lambda data: None,
        around=tuple(order["around"]))
    while True:
        await asyncio.sleep(0.1)
        engine.move_deadline(SystemClock().boot_s() + left_s)

asyncio.run(main(json.loads(sys.argv[1])))
"""


class Room:
    """A tree with a sandbox around it."""

    def __init__(self, folder: Path, mode: Mode) -> None:
        self.tree = folder / "tree"
        self.tree.mkdir()
        self.folders = TermFolders(folder / "control", folder / "scratch")
        self.folders.make(home=True)
        home = folder / "home"
        home.mkdir()
        term = Worktree(self.tree, self.tree, None, "job1", 1, "", local=True)
        self.around = Sandbox(mode, (), (), home).around(term, self.folders, network=True)

    def running(self) -> list[int]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.environ().get(MARK) == str(self.folders.control):
                    found.append(process.pid)
        return found

    def beats(self) -> int:
        return (self.tree / "beats").stat().st_size if (self.tree / "beats").exists() else 0

    async def at_work(self) -> None:
        await eventually(lambda: self.beats() > 4, WITHIN_S)
        assert self.running()

    @property
    def launcher(self) -> psutil.Process:
        return psutil.Process(orjson.loads((self.folders.control / "launcher.json").read_bytes())["pid"])

    async def engine(self, left_s: float = 600.0) -> EngineProcess:
        return await EngineProcess.start(
            ("sh", "-c", DAEMONS),
            cwd=self.tree,
            env=machine_variables(os.environ),
            control=self.folders.control,
            deadline_s=SystemClock().boot_s() + left_s,
            on_output=lambda _data: None,
            around=self.around,
        )

    @contextlib.contextmanager
    def factory(self, left_s: float) -> Iterator[subprocess.Popen[bytes]]:
        order = {
            "argv": ["sh", "-c", DAEMONS],
            "cwd": str(self.tree),
            "env": machine_variables(os.environ),
            "control": str(self.folders.control),
            "around": self.around,
            "left": left_s,
        }
        argv = [sys.executable, "-c", FACTORY, orjson.dumps(order).decode()]
        process = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(LAUNCHER.parents[1])})
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@BOTH
async def test_the_deadline_ends_all_of_it(tmp_path: Path, mode: Mode) -> None:
    room = Room(tmp_path, mode)
    engine = await room.engine(left_s=2.0)
    await room.at_work()
    ended = await engine.wait()
    assert ended.reason == "trust_lost"
    assert room.running() == []


@BOTH
async def test_an_order_ends_all_of_it_also_what_ignores_the_first_signal(tmp_path: Path, mode: Mode) -> None:
    room = Room(tmp_path, mode)
    engine = await room.engine()
    await room.at_work()
    engine.end(0.3)
    assert (await engine.wait()).reason == "told"
    assert room.running() == []


@BOTH
async def test_the_death_of_the_factory_ends_all_of_it(tmp_path: Path, mode: Mode) -> None:
    room = Room(tmp_path, mode)
    with room.factory(600.0) as process:
        await room.at_work()
        process.send_signal(signal.SIGKILL)
        process.wait()
        await eventually(lambda: room.running() == [], WITHIN_S)


@BOTH
async def test_a_stopped_factory_ends_all_of_it_by_its_silence(tmp_path: Path, mode: Mode) -> None:
    room = Room(tmp_path, mode)
    with room.factory(2.0) as process:
        await room.at_work()
        process.send_signal(signal.SIGSTOP)
        await eventually(lambda: room.running() == [], WITHIN_S)


@BOTH
async def test_the_death_of_the_launcher_ends_all_of_it(tmp_path: Path, mode: Mode) -> None:
    room = Room(tmp_path, mode)
    engine = await room.engine()
    await room.at_work()
    room.launcher.kill()
    assert (await engine.wait()).reason == "launcher_gone"
    await eventually(lambda: room.running() == [], WITHIN_S)


@BOTH
async def test_how_it_ended_is_passed_on(tmp_path: Path, mode: Mode) -> None:
    room = Room(tmp_path, mode)
    said = bytearray()
    engine = await EngineProcess.start(
        ("sh", "-c", "echo out; echo err >&2; exit 42"),
        cwd=room.tree,
        env=machine_variables(os.environ),
        control=room.folders.control,
        deadline_s=SystemClock().boot_s() + 60.0,
        on_output=said.extend,
        around=room.around,
    )
    ended = await engine.wait()
    assert (ended.reason, ended.rc) == ("exited", 42)
    assert said == b"out\nerr\n"
