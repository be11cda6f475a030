"""Faults, and when all is calm."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from functools import cached_property
from math import inf
from typing import NamedTuple

from chaos.checkers.view.lives import LifeReader
from chaos.checkers.view.spans import Span, merged, without
from chaos.history import Record

NETWORKS = frozenset({"bus", "rest"})
ANSWERS_S = 6.0  # how much longer than a fault a call that it hit may wait for its answer
LANDS_S = 16.0  # how much later than a fault what it held up may still arrive
QUIET_S = 10.0  # without any fault, all that was under way is over after this


class Trouble(NamedTuple):
    """A fault: while it lasts, what it hits may be late, lost, doubled or wrong."""

    begun: float
    over: float
    on: str
    record: Record


class TroubleReader:
    """Reads the records of faults. `end` closes those that nothing ended."""

    def __init__(self, lives: LifeReader) -> None:
        self.all: list[Trouble] = []
        self.over_at = 0.0
        self._lives = lives
        self._waiting: dict[tuple[str, str], list[Record]] = defaultdict(list)

    def take(self, _index: int, record: Record) -> None:
        on = str(record.data.get("on", ""))
        waiting = self._waiting[(str(record.data.get("name")), on)]
        if record.data["does"] == "begins":
            waiting.append(record)
        elif record.data["does"] == "once":
            self.all.append(Trouble(record.at, record.at, on, record))
        elif waiting:
            begun = waiting.pop(0)
            self.all.append(Trouble(begun.at, record.at, on, begun))

    def end(self, calm_at: float | None, over_at: float) -> None:
        """The calm ends what began before it; the history ends at `over_at`."""
        self.over_at = over_at
        for begun in (one for waiting in self._waiting.values() for one in waiting):
            over = calm_at if calm_at is not None and calm_at >= begun.at else inf
            self.all.append(Trouble(begun.at, over, str(begun.data.get("on", "")), begun))

    @cached_property
    def working(self) -> list[Span]:
        """When one coordinator did its work: it was up and ran, and its way to the store was good. One span is one
        coordinator's; those of several may overlap.
        """
        spans: list[Span] = []
        for who, life in self._lives.of_coordinators():
            bad = [(one.begun, one.over + ANSWERS_S) for one in self.all if self._hinders(one.on, who)]
            paused = [(begun.at, over) for begun, over in life.paused()]
            spans += without((life.up.at, min(life.over, self.over_at)), merged([*bad, *paused]))
        return sorted(spans)

    def _hinders(self, on: str, coordinator: str) -> bool:
        """Faults of the network or of other processes keep no coordinator from its own loops."""
        elsewhere = on in NETWORKS or on.startswith("coordinator:") or self._lives.is_factory(on)
        return on == coordinator or not elsewhere

    def settled_by(self, at: float) -> float:
        """From when on nothing can be under way any more that was at `at`: a quiet while has passed."""
        for low, high in self.unrest:
            if high < at:
                continue
            if low >= at + QUIET_S:
                break
            at = max(at, high)
        return at + QUIET_S

    def all_calm(self, begun: float, over: float) -> bool:
        """Whether no fault at all lay in [begun, over], and no coordinator was paused or went down or came up."""
        place = bisect_right(self.unrest, (over, inf)) - 1
        return place < 0 or self.unrest[place][1] < begun

    @cached_property
    def unrest(self) -> list[Span]:
        """Every fault, until what it delayed has landed; and every coordinator's pauses, beginning and end."""
        spans = [(one.begun, one.over + LANDS_S) for one in self.all]
        for _, life in self._lives.of_coordinators():
            spans += [(begun.at, over) for begun, over in life.paused()]
            spans += [(one.at, one.at + LANDS_S) for one in (life.up, life.down) if one is not None]
        return merged(spans)
