"""Waiting without fixed sleeps."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

POLL_S = 0.005


async def eventually(predicate: Callable[[], object | Awaitable[object]], within_s: float = 10.0) -> None:
    """Returns as soon as the predicate, plain or async, holds; fails the test if it never does.

    The loop's time, so virtual too.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + within_s
    while True:
        holds = predicate()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        assert loop.time() < deadline_s, f"did not come true within {within_s} s"
        await asyncio.sleep(POLL_S)
