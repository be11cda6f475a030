"""An event loop on virtual time: when nothing is ready it jumps to the next timer instead of waiting.

Only for worlds without sockets, threads or processes: whatever waits for those would wait for ever, and is
told so instead.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

CLOCK_RESOLUTION_S = 1e-6


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is set: the virtual world stands still."""


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.jumped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("every task waits and no timer is set")
        if timeout > 0:
            self.jumped_s += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at 0 s; `time()` moves only by jumps, so that a run depends on nothing but its inputs."""

    def __init__(self) -> None:
        self._jumps = _JumpingSelector()
        super().__init__(self._jumps)
        # asyncio's is one nanosecond, which vanishes beside some months of seconds in a float
        self._clock_resolution = CLOCK_RESOLUTION_S

    def time(self) -> float:
        return self._jumps.jumped_s


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Like `asyncio.run`, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
