"""An engine under its launcher, seen from the factory: start it, read it, move its deadline, end it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson
import psutil

from factory.credentials import note_trust
from factory.marked import end_marked
from factory.ports import Ended

LAUNCHER = Path(__file__).with_name("launcher.py")
END_GRACE_S = 2.0
READ_BYTES = 64 * 1024
LOOK_S = 1.0
MARK = "GIGAFACTORY_TERM"  # in the environment of all that a term started: how it is found without its launcher


class EngineProcess:
    def __init__(self, process: asyncio.subprocess.Process, control: Path, on_output: Callable[[bytes], None]) -> None:
        self._process = process
        self._control = control
        self._reader = asyncio.create_task(self._read(on_output))

    @classmethod
    async def start(
        cls,
        argv: tuple[str, ...],
        *,
        cwd: Path,
        env: Mapping[str, str],
        control: Path,
        deadline_s: float,
        on_output: Callable[[bytes], None],
        around: tuple[str, ...] = (),
    ) -> EngineProcess:
        """See `Launch`."""
        _forget_ended(control)
        note_trust(control, deadline_s)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(LAUNCHER),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        note_launcher(control, process.pid)
        engine = cls(process, control, on_output)
        order = {
            "argv": list(argv),
            "around": list(around),
            "cwd": str(cwd),
            "env": {**env, MARK: str(control)},
            "deadline": deadline_s,
            "ended": str(control / "ended.json"),
        }
        engine._tell(order)
        return engine

    def move_deadline(self, deadline_s: float) -> None:
        with contextlib.suppress(OSError):  # a full disk: git is answered until the deadline that is noted
            note_trust(self._control, deadline_s)
        self._tell({"deadline": deadline_s})

    def end(self, grace_s: float = END_GRACE_S) -> None:
        """Asks it to end, and kills it after `grace_s`; with 0 at once."""
        self._tell({"end": grace_s})

    async def wait(self) -> Ended:
        """Returns when nothing of the engine is left."""
        waiting = asyncio.ensure_future(self._process.wait())
        try:
            while not (await asyncio.wait({waiting}, timeout=LOOK_S))[0]:
                if self._process.returncode is not None:  # what it left holds its output open
                    await end_marked(MARK, str(self._control))
        finally:
            waiting.cancel()
        try:
            doc = json.loads((self._control / "ended.json").read_text(encoding="utf-8"))
            ended = Ended(doc["reason"], int(doc["rc"]), str(doc.get("error", "")))
        except (OSError, ValueError):
            await end_marked(MARK, str(self._control))
            ended = Ended("launcher_gone", -9, "the launcher was killed")
        await self._reader
        if self._process.stdin is not None:
            self._process.stdin.close()
        return ended

    def _tell(self, order: dict[str, object]) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # it is gone already: `wait` says how
            assert self._process.stdin is not None
            self._process.stdin.write(orjson.dumps(order) + b"\n")

    async def _read(self, on_output: Callable[[bytes], None]) -> None:
        assert self._process.stdout is not None
        while data := await self._process.stdout.read(READ_BYTES):
            on_output(data)


def _forget_ended(control: Path) -> None:
    (control / "ended.json").unlink(missing_ok=True)


def note_launcher(control: Path, pid: int) -> None:
    """So that a later session of this factory can find it: the pid, and when it began, since pids recur."""
    with contextlib.suppress(psutil.Error):
        began = psutil.Process(pid).create_time()
        (control / "launcher.json").write_bytes(orjson.dumps({"pid": pid, "began": began}))


async def end_left_over_launchers(terms: Path, within_s: float = 10.0) -> int:
    """Waits for the launchers of an earlier session, which end with their factory, and kills what does not."""
    ended = 0
    for note in _launcher_notes(terms):
        with contextlib.suppress(ValueError):  # half a note: that launcher had not been told what to run
            doc = orjson.loads(note.read_bytes())
            launcher = _living(doc["pid"], doc["began"])
            if launcher is not None:
                await _gone(launcher, within_s)
            # always: it may have been dying before it could kill what it started
            left = await end_marked(MARK, str(note.parent))
            ended += launcher is not None or left
        note.unlink()
    return ended


def _launcher_notes(terms: Path) -> list[Path]:
    return sorted(terms.glob("*/launcher.json"))


def _living(pid: int, began: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - began) < 1.0
        return process if same and process.is_running() and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


async def _gone(launcher: psutil.Process, within_s: float) -> None:
    """It ends by itself as its pipe is closed; a stopped or stuck one is killed with all that it started."""
    deadline = asyncio.get_running_loop().time() + within_s
    with contextlib.suppress(psutil.Error):  # it may end at any moment
        while _living(launcher.pid, launcher.create_time()) and asyncio.get_running_loop().time() < deadline:
            if launcher.status() == psutil.STATUS_STOPPED:
                break
            await asyncio.sleep(0.02)
        family = [*launcher.children(recursive=True), launcher]
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(family, timeout=within_s)
