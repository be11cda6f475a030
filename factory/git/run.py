"""git as a process group of its own: never asks, ends with all that it started, its errors told in its own words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO

from factory.git.environment import factory_env
from factory.git.urls import without_passwords
from factory.marked import end_marked

SILENCE_S = 300.0  # a git at work says something on stderr (`--progress`): silence, not length, is what ends it
LOOK_S = 0.2
PROGRESS_S = 1.0
MARK = "GIGAFACTORY_GIT"  # in the environment of all that one call started
ERROR_LINES = 8
ERROR_CHARS = 1000

Progress = Callable[[str], None]
_begins_error = ("fatal:", "error:", "remote:", " ! ")
_machine_trouble = re.compile(
    r"No space left|quota exceeded|Input/output error|Read-only file system|[Cc]annot allocate|out of memory"
    r"|File too large|Too many open files|\[Errno|ended by signal|no message"
)
_server_trouble = re.compile(r"unpacker error|bad (tree )?object|missing|failed to (update|lock)|No space|not lock")
_line_end = re.compile(r"[\r\n]+")


class GitError(Exception):
    """What git and its server said, without what might be a credential."""


def is_machines(error: GitError | str) -> bool:
    """Whether it is about this machine, whatever was asked of it."""
    return _machine_trouble.search(str(error)) is not None


def is_refusal(error: GitError) -> bool:
    """Whether a server took what was pushed, and said no: from another machine it would say the same."""
    return "[remote rejected]" in str(error) and not _server_trouble.search(str(error))


async def run(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdin: bytes = b"",
    silence_s: float = SILENCE_S,
    progress: Progress | None = None,
    ok: Collection[int] = (0,),
) -> bytes:
    """stdout. Raises GitError where it ends with none of `ok`. Cancelled, it ends the program, and all that this
    started, before it gives way.

    Output goes to files: a helper that outlives its git holds no pipe that anybody waits for. `progress` hears the last
    line of stderr now and then.
    """
    mark = uuid.uuid4().hex
    try:
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(stdin)
            given.seek(0)
            process = await asyncio.create_subprocess_exec(
                *argv,
                cwd=cwd,
                env={**env, MARK: mark},
                stdin=given if stdin else asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            try:
                await _until_ended(process, out, err, silence_s, progress, _name(argv))
            except BaseException:
                await asyncio.shield(_end(process, mark))
                raise
            if process.returncode not in ok:
                raise GitError(_error(_name(argv), _read(err).decode(errors="replace")))
            return _read(out)
    except OSError as error:
        raise GitError(f"{_name(argv)}: {error}") from error


async def git(
    cwd: Path,
    *args: str,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    ok: Collection[int] = (0,),
) -> str:
    """stdout without the line ends around it; bytes that are no UTF-8 as `os.fsdecode` has them. Raises GitError."""
    return os.fsdecode(await run(["git", *args], cwd=cwd, env=factory_env(env), stdin=stdin, ok=ok)).strip("\n")


async def _until_ended(
    process: asyncio.subprocess.Process,
    out: IO[bytes],
    err: IO[bytes],
    silence_s: float,
    progress: Progress | None,
    name: str,
) -> None:
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(process.wait())
    size, heard_s, told_s = 0, loop.time(), loop.time()
    try:
        while not (await asyncio.wait({waiting}, timeout=LOOK_S))[0]:
            now_s, grown = loop.time(), os.fstat(out.fileno()).st_size + os.fstat(err.fileno()).st_size
            if grown != size:
                size, heard_s = grown, now_s
            if now_s - heard_s > silence_s:
                raise GitError(f"{name}: no sign of life for {silence_s:.0f} s")
            if progress is not None and now_s - told_s >= PROGRESS_S:
                told_s = now_s
                if line := _last_line(err):
                    progress(line)
    finally:
        waiting.cancel()


async def _end(process: asyncio.subprocess.Process, mark: str) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await end_marked(MARK, mark)  # what left the group
    with contextlib.suppress(subprocess.SubprocessError):
        await process.wait()


def _name(argv: Sequence[str]) -> str:
    """Such as `git fetch`: options before the command are ours."""
    rest = iter(argv[1:])
    for word in rest:
        if word in ("-c", "-C"):
            next(rest, None)
        elif not word.startswith("-"):
            return f"{argv[0]} {word}"
    return argv[0]


def _read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _last_line(file: IO[bytes]) -> str:
    """By its own offset: the process writes on at the end."""
    size = os.fstat(file.fileno()).st_size
    said = os.pread(file.fileno(), 400, max(0, size - 400)).decode(errors="replace")
    lines = [line.strip() for line in _line_end.split(said) if line.strip()]
    return without_passwords(lines[-1]) if lines else ""


def _error(name: str, said: str) -> str:
    """From the first line that tells of an error on; a server's reason stands in several."""
    lines = [line.rstrip() for line in _line_end.split(said) if line.strip() and not line.startswith("hint:")]
    first = next((at for at, line in enumerate(lines) if line.startswith(_begins_error)), max(0, len(lines) - 4))
    told = "\n".join(lines[first : first + ERROR_LINES]) or "no message"
    return f"{name}: {without_passwords(told)[:ERROR_CHARS]}"
