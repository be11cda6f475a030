"""Time, handed in. Wall time goes into documents; time since boot measures trust and never leaves the process."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall time, UTC."""

    def boot_s(self) -> float:
        """Seconds on a clock that never goes back and goes on while the machine sleeps."""


def _boot_clock_id() -> int:
    if sys.platform == "darwin":
        return time.CLOCK_MONOTONIC  # on macOS this one counts sleep
    return getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    def __init__(self) -> None:
        self._boot_clock = _boot_clock_id() if hasattr(time, "clock_gettime") else None

    def now(self) -> datetime:
        return datetime.now(UTC)

    def boot_s(self) -> float:
        if self._boot_clock is None:
            return time.monotonic()
        return time.clock_gettime(self._boot_clock)


EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


class LoopClock:
    """Follows the running event loop's time: under a virtual-time loop, both kinds of time are virtual.

    `skew_s` shifts wall time, as a badly set machine would.
    """

    def __init__(self, skew_s: float = 0.0) -> None:
        self.skew_s = skew_s

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.boot_s() + self.skew_s)

    def boot_s(self) -> float:
        return asyncio.get_running_loop().time()
