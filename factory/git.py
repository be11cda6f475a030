"""git, run as a child process: never asks at a terminal, always with an identity, its errors as sentences."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

GIT_TIMEOUT_S = 300.0
IDENTITY = {"NAME": "Agent Gigafactory", "EMAIL": "factory@gigafactory.invalid"}


class GitError(Exception):
    """What git said, in one line, without what might be a credential."""


def git_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    for role in ("AUTHOR", "COMMITTER"):
        for name, value in IDENTITY.items():
            env[f"GIT_{role}_{name}"] = value
    env |= {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    return env | dict(extra or {})


async def git(cwd: Path, *args: str, env: Mapping[str, str] | None = None) -> str:
    """stdout, stripped. Raises GitError."""
    process = await asyncio.create_subprocess_exec(
        "git",
        *args,
        cwd=cwd,
        env=git_env(env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(GIT_TIMEOUT_S):
            out, err = await process.communicate()
    except TimeoutError:
        await _killed(process)
        raise GitError(f"git {args[0]}: did not end within {GIT_TIMEOUT_S:.0f} s") from None
    except asyncio.CancelledError:
        await _killed(process)
        raise
    if process.returncode != 0:
        lines = err.decode(errors="replace").strip().splitlines() or ["no message"]
        said = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1])
        raise GitError(f"git {args[0]}: {said}")
    return out.decode(errors="replace").strip()


async def _killed(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may have ended just now
        process.kill()
    await process.wait()
