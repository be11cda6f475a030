"""Background work: `run_once(now)` at its own pace, sooner when woken. A missed wake-up costs one interval."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from typing import Any

from runtime.clock import Clock

log = logging.getLogger(__name__)

RunOnce = Callable[[datetime], Awaitable[Any]]


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks and returns when they are over. A caller that is cancelled while it waits here is told so."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@contextlib.contextmanager
def left_to_the_next_run(what: str) -> Iterator[None]:
    """One bad item of a loop must not keep the loop from the others."""
    try:
        yield
    except Exception:
        log.exception("%s is left to the next run", what)


class Service:
    """One background loop. A failing run is logged and repeated after the interval; only `stop` ends it."""

    def __init__(self, name: str, run_once: RunOnce, interval_s: float, clock: Clock) -> None:
        self.name = name
        self._run_once = run_once
        self._interval_s = interval_s
        self._clock = clock
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        assert self._task is None, f"{self.name} is running"
        self._task = asyncio.create_task(self._run(), name=self.name)

    def wake(self) -> None:
        self._wake.set()

    async def stop(self) -> None:
        if self._task is not None:
            await cancel(self._task)
            self._task = None

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._run_once(self._clock.now())
            except Exception:
                log.exception("%s failed; it runs again in %s s", self.name, self._interval_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._wake.wait()
