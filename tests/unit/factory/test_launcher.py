"""An engine lives only while its factory vouches for it: real processes, each ended by its pid."""

from __future__ import annotations

import asyncio
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

from factory.process import LAUNCHER, MARK, Ended, EngineProcess, end_left_over_launchers, note_launcher
from factory.surroundings.variables import machine_variables
from runtime.clock import SystemClock
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.xdist_group("processes"),
    pytest.mark.skipif(sys.platform != "linux", reason="pids and signals are asked of Linux"),
]

LONG_S = 600.0
WITHIN_S = 30.0
SAY_PID = "echo $$ > pid; "
STUBBORN = "trap '' TERM; "
FOR_EVER = "while :; do echo beat >> beats; sleep 0.02; done"
DAEMON = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open("daemon", "w").write(str(os.getpid()))
        while True:
            time.sleep(0.02)
    os._exit(0)
os.wait()
while True:
    time.sleep(0.02)
"""


class Terms:
    """Starts engines in one folder, and at the end kills whatever of them is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control = folder / "terms" / "job1-1"
        self.control.mkdir(parents=True)
        self.output = bytearray()

    async def start(self, *argv: str, left_s: float = LONG_S) -> EngineProcess:
        return await EngineProcess.start(
            argv,
            cwd=self.folder,
            env=machine_variables(os.environ),
            control=self.control,
            deadline_s=SystemClock().boot_s() + left_s,
            on_output=self.output.extend,
        )

    async def sh(self, script: str, left_s: float = LONG_S) -> EngineProcess:
        return await self.start("sh", "-c", script, left_s=left_s)

    @property
    def launcher(self) -> psutil.Process:
        return psutil.Process(orjson.loads((self.control / "launcher.json").read_bytes())["pid"])

    async def pid(self, name: str = "pid") -> int:
        path = self.folder / name
        await eventually(lambda: path.exists() and path.read_text().strip(), WITHIN_S)
        return int(path.read_text())

    def beats(self) -> int:
        return (self.folder / "beats").stat().st_size if (self.folder / "beats").exists() else 0

    def kill_all(self) -> None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == str(self.control):
                    process.kill()
        with contextlib.suppress(psutil.Error, OSError):
            self.launcher.kill()


@pytest.fixture
def terms(tmp_path: Path) -> Iterator[Terms]:
    made = Terms(tmp_path)
    yield made
    made.kill_all()


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def ended(engine: EngineProcess) -> Ended:
    async with asyncio.timeout(WITHIN_S):
        return await engine.wait()


@pytest.mark.parametrize("rc", [0, 1, 42])
async def test_how_the_engine_ended_is_passed_on_with_all_that_it_printed(terms: Terms, rc: int) -> None:
    engine = await terms.sh(f"echo out; echo err >&2; exit {rc}")
    assert await ended(engine) == Ended("exited", rc)
    assert terms.output == b"out\nerr\n"


async def test_a_signal_that_ended_the_engine_is_passed_on(terms: Terms) -> None:
    assert await ended(await terms.sh("kill -SEGV $$")) == Ended("exited", -signal.SIGSEGV)


async def test_a_program_that_is_not_there_is_127_with_a_sentence(terms: Terms) -> None:
    done = await ended(await terms.start("no-such-program-here"))
    assert (done.reason, done.rc) == ("not_started", 127)
    assert done.error == "no-such-program-here: No such file or directory"


async def test_an_engine_that_is_told_to_end_may_tidy_up_first(terms: Terms) -> None:
    engine = await terms.sh("trap 'echo tidied; exit 3' TERM; " + SAY_PID + FOR_EVER)
    await terms.pid()
    engine.end(grace_s=WITHIN_S)
    assert await ended(engine) == Ended("told", 3)
    assert b"tidied\n" in terms.output


async def test_an_engine_that_does_not_heed_the_ask_is_killed_after_the_grace(terms: Terms) -> None:
    engine = await terms.sh(STUBBORN + SAY_PID + FOR_EVER)
    await terms.pid()
    engine.end(grace_s=0.1)
    assert await ended(engine) == Ended("told", -signal.SIGKILL)


async def test_no_grace_goes_beyond_the_deadline(terms: Terms) -> None:
    engine = await terms.sh(STUBBORN + SAY_PID + FOR_EVER, left_s=3.0)
    await terms.pid()
    engine.end(grace_s=LONG_S)
    assert (await ended(engine)).rc == -signal.SIGKILL


async def test_an_engine_is_killed_at_its_deadline_without_being_asked(terms: Terms) -> None:
    engine = await terms.sh("trap 'echo asked; exit 3' TERM; " + FOR_EVER, left_s=1.0)
    assert await ended(engine) == Ended("trust_lost", -signal.SIGKILL)
    assert terms.output == b""


async def test_nothing_is_started_when_the_deadline_has_passed_already(terms: Terms) -> None:
    engine = await terms.start("no-such-program-here", left_s=-0.001)
    assert (await ended(engine)).reason == "trust_lost", "had it been tried, it would not have been found"


async def test_a_moved_deadline_keeps_it_alive_and_a_deadline_may_be_moved_back(terms: Terms) -> None:
    engine = await terms.sh(FOR_EVER, left_s=3.0)
    first_s = SystemClock().boot_s() + 3.0
    engine.move_deadline(SystemClock().boot_s() + LONG_S)
    await eventually(lambda: SystemClock().boot_s() > first_s + 0.5, WITHIN_S)
    before = terms.beats()
    await eventually(lambda: terms.beats() > before, WITHIN_S)
    engine.move_deadline(SystemClock().boot_s())
    assert (await ended(engine)).reason == "trust_lost"


async def test_nothing_of_the_engine_is_left_when_wait_returns_not_even_what_left_its_group(terms: Terms) -> None:
    engine = await terms.start(sys.executable, "-c", DAEMON)
    daemon = await terms.pid("daemon")
    engine.end(grace_s=0.05)
    await ended(engine)
    assert not lives(daemon)


async def test_what_an_engine_left_running_when_it_exited_by_itself_is_killed(terms: Terms) -> None:
    engine = await terms.sh(f"({STUBBORN}{FOR_EVER}) > /dev/null 2>&1 & echo $! > pid; exit 0")
    assert await ended(engine) == Ended("exited", 0)
    assert not lives(await terms.pid())


FACTORY = """
import asyncio, os, sys
from pathlib import Path
from factory.process import EngineProcess
from factory.surroundings.variables import machine_variables
from runtime.clock import SystemClock

async def main(folder, program, left_s):
    control = folder / "terms" / "job1-1"
    deadline_s = SystemClock().boot_s() + left_s
    engine = await EngineProcess.start((sys.executable, "-c", program), cwd=folder, env=machine_variables(os.environ),
                                       control=control, deadline_s=deadline_s, on_output=lambda data: None)
    while True:
        await asyncio.sleep(0.1)
        engine.move_deadline(SystemClock().boot_s() + left_s)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])))
"""


@contextlib.contextmanager
def factory(terms: Terms, left_s: float) -> Iterator[subprocess.Popen[bytes]]:
    """A factory that keeps on moving the deadline of one engine to `left_s` from now."""
    argv = [sys.executable, "-c", FACTORY, str(terms.folder), DAEMON, str(left_s)]
    process = subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(LAUNCHER.parents[1])})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_the_death_of_the_factory_kills_the_engine_and_a_daemon_of_it_that_ignores_term(terms: Terms) -> None:
    with factory(terms, LONG_S) as process:
        daemon = await terms.pid("daemon")
        launcher = terms.launcher
        engine = launcher.children()[0]
        process.send_signal(signal.SIGKILL)
        process.wait()
        await eventually(lambda: not lives(launcher.pid), WITHIN_S)
        assert not lives(daemon)
        assert not lives(engine.pid)


async def test_a_stopped_factory_moves_no_deadline_and_so_its_engine_is_killed(terms: Terms) -> None:
    with factory(terms, 2.0) as process:
        daemon = await terms.pid("daemon")
        launcher = terms.launcher
        alive_until_s = SystemClock().boot_s() + 2.5  # past the first deadline: it was moved
        await eventually(lambda: SystemClock().boot_s() > alive_until_s, WITHIN_S)
        assert lives(daemon)
        process.send_signal(signal.SIGSTOP)
        await eventually(lambda: not lives(daemon), WITHIN_S)
        await eventually(lambda: not lives(launcher.pid), WITHIN_S)
        assert orjson.loads((terms.control / "ended.json").read_bytes())["reason"] == "trust_lost"


async def test_an_engine_does_not_outlive_its_launcher_nor_does_what_left_its_group(terms: Terms) -> None:
    engine = await terms.start(sys.executable, "-c", DAEMON)
    daemon = await terms.pid("daemon")
    child = terms.launcher.children()[0]
    terms.launcher.kill()
    assert (await ended(engine)).reason == "launcher_gone"
    await eventually(lambda: not lives(child.pid) and not lives(daemon), WITHIN_S)


async def test_a_signal_to_the_launcher_that_is_not_its_factorys_changes_nothing(terms: Terms) -> None:
    engine = await terms.sh(FOR_EVER)
    await eventually(lambda: terms.beats(), WITHIN_S)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        terms.launcher.send_signal(number)
    before = terms.beats()
    await eventually(lambda: terms.beats() > before, WITHIN_S)
    engine.end(grace_s=0)
    assert (await ended(engine)).reason == "told"


async def test_the_launchers_of_a_killed_factory_are_waited_for(terms: Terms) -> None:
    with factory(terms, LONG_S) as process:
        daemon = await terms.pid("daemon")
        process.send_signal(signal.SIGKILL)
        await end_left_over_launchers(terms.folder / "terms", WITHIN_S)
        assert not lives(daemon)
    assert not (terms.control / "launcher.json").exists()
    assert await end_left_over_launchers(terms.folder / "terms", WITHIN_S) == 0


async def test_a_launcher_that_is_stopped_is_killed_with_all_that_it_started(terms: Terms) -> None:
    with factory(terms, LONG_S) as process:
        daemon = await terms.pid("daemon")
        launcher = terms.launcher
        launcher.suspend()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert await end_left_over_launchers(terms.folder / "terms", WITHIN_S) == 1
    assert not lives(launcher.pid)
    assert not lives(daemon)


async def test_what_a_launcher_that_was_killed_with_its_factory_left_is_found_and_killed(terms: Terms) -> None:
    with factory(terms, LONG_S) as process:
        daemon = await terms.pid("daemon")
        process.send_signal(signal.SIGSTOP)
        terms.launcher.kill()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert await end_left_over_launchers(terms.folder / "terms", WITHIN_S) == 1
    await eventually(lambda: not lives(daemon), WITHIN_S)  # the kernel takes a moment to bury it


def bystander_process() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


async def test_a_process_that_has_the_pid_of_an_old_launcher_is_left_alone(terms: Terms) -> None:
    with bystander_process() as bystander:
        note_launcher(terms.control, bystander.pid)
        note = terms.control / "launcher.json"
        doc = orjson.loads(note.read_bytes())
        note.write_bytes(orjson.dumps({**doc, "began": doc["began"] - 3600.0}))
        assert await end_left_over_launchers(terms.folder / "terms", 0.1) == 0
        assert bystander.poll() is None
        bystander.communicate(b"\n")
    assert bystander.returncode == 0


async def test_half_a_note_of_a_launcher_stands_in_no_sessions_way(terms: Terms) -> None:
    (terms.control / "launcher.json").write_bytes(b'{"pid": 12')
    assert await end_left_over_launchers(terms.folder / "terms", 0.1) == 0
    assert not (terms.control / "launcher.json").exists()
