"""How a measured time is spread over its samples."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Percentiles(NamedTuple):
    """Seconds. p99 by the nearest rank, so that it is one of the samples."""

    what: str
    samples: int
    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, what: str, seconds: Sequence[float]) -> Percentiles:
        ordered = sorted(seconds)
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        return cls(what, len(ordered), statistics.median(ordered), p99, ordered[-1])
