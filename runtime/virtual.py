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
OWN_FDS = 1


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is set: the virtual world stands still."""


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, step_s: float) -> None:
        super().__init__()
        self.jumped_s = 0.0
        self._step_s = step_s

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("every task waits and no timer is set")
        self.jumped_s += timeout if timeout > 0 else self._step_s
        if len(self.get_map()) <= OWN_FDS:  # nothing but the loop's own wake-up, for which nobody needs to wait
            return []
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at 0 s; `time()` moves by jumps, so that a run depends on nothing but its inputs.

    A round of ready steps costs `step_s`. With 0, who waits for a moment by a clock that is slower than the loop's, and
    wakes a hair too early each time, would never see it come.
    """

    def __init__(self, step_s: float = 0.0) -> None:
        self._jumps = _JumpingSelector(step_s)
        super().__init__(self._jumps)
        # asyncio's is one nanosecond, which vanishes beside some months of seconds in a float
        self._clock_resolution = CLOCK_RESOLUTION_S

    def time(self) -> float:
        return self._jumps.jumped_s


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Like `asyncio.run`, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
