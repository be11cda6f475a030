"""Processes found by a variable in their environment, which all that they start inherits."""

from __future__ import annotations

import asyncio
import contextlib

import psutil


async def end_marked(name: str, value: str) -> bool:
    """Kills every process that carries the mark until none is left; whether there was one."""
    found = False
    while left := [process for process in psutil.process_iter() if _is_marked(process, name, value)]:
        found = True
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        await asyncio.sleep(0.01)
    return found


def _is_marked(process: psutil.Process, name: str, value: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        if process.status() != psutil.STATUS_ZOMBIE:
            return bool(process.environ().get(name) == value)
    return False
