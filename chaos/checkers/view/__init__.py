"""A history as the checkers want it, read in one pass: one reader for each kind of record."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable

from chaos.checkers.view.asks import FENCED, Ask, AskReader, Session, TermKey, Told
from chaos.checkers.view.lives import Life, LifeReader
from chaos.checkers.view.spans import Span, in_order, merged, without
from chaos.checkers.view.terms import DocumentReader, SeenReader, SeenTerm
from chaos.checkers.view.troubles import ANSWERS_S, LANDS_S, QUIET_S, Trouble, TroubleReader
from chaos.history import Doc, History, Record
from schemas.events import EventType

__all__ = [
    "ANSWERS_S",
    "FENCED",
    "HOLDERS_EVENTS",
    "LANDS_S",
    "QUIET_S",
    "Ask",
    "Life",
    "SeenTerm",
    "Session",
    "Span",
    "TermKey",
    "Told",
    "Trouble",
    "View",
    "in_order",
    "merged",
    "view_of",
    "without",
]

HOLDERS_EVENTS = frozenset({EventType.STARTED, EventType.CHECKPOINTED, EventType.REPORTED, EventType.RELEASED})

Take = Callable[[int, Record], None]


class RunReader:
    """Reads the records that there are few of: the fleet's settings, enrolments, and how the run ended."""

    def __init__(self) -> None:
        self.timers: Doc = {}
        self.budgets = False
        self.engines: list[tuple[int, Record]] = []
        self.trees: list[tuple[int, Record]] = []
        self.enrolments: dict[str, list[Record]] = defaultdict(list)
        self.converged: Record | None = None
        self.gave_up: Record | None = None

    def take_engine(self, index: int, record: Record) -> None:
        self.engines.append((index, record))

    def take_tree(self, index: int, record: Record) -> None:
        self.trees.append((index, record))

    def take_fleet(self, _index: int, record: Record) -> None:
        self.timers, self.budgets = record.data.get("timers") or {}, bool(record.data.get("budgets"))

    def take_enrolled(self, _index: int, record: Record) -> None:
        self.enrolments[record.data["factoryId"]].append(record)

    def take_converged(self, _index: int, record: Record) -> None:
        self.converged = record

    def take_gave_up(self, _index: int, record: Record) -> None:
        self.gave_up = record

    def timer(self, name: str, default: float) -> float:
        return float(self.timers.get(name, default))


class View:
    """`docs`: what the store held at the end; empty where the history has no documents (`stored`)."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.records = history.records
        self.run = RunReader()
        self.asks = AskReader()
        self.lives = LifeReader()
        self.seen = SeenReader()
        self.troubles = TroubleReader(self.lives)
        self._read_records()
        calm = next(history.of("calm"), None)
        self.over_at = self.records[-1].at if self.records else 0.0
        self.troubles.end(calm.at if calm is not None else None, self.over_at)
        self.stored = "fleet_jobs" in history.documents or any(history.documents.values())
        self.docs = DocumentReader(history.documents)

    def seen_claim(self, grant: Doc) -> tuple[int, Record] | None:
        """When the claim of a grant became visible."""
        term = self.docs.terms.get((grant["jobId"], grant["leaseEpoch"]))
        return self.seen.event(term.claimed) if term is not None else None

    def _read_records(self) -> None:
        readers: dict[str, tuple[Take, ...]] = {
            "asked": (self.asks.take_asked, self.lives.take_asked),
            "answered": (self.asks.take_end,),
            "refused": (self.asks.take_end,),
            "unanswered": (self.asks.take_end,),
            "seen": (self.seen.take,),
            "fault": (self.troubles.take,),
            "up": (self.lives.take_up,),
            "down": (self.lives.take_down,),
            "paused": (self.lives.take_pause,),
            "resumed": (self.lives.take_pause,),
            "engine": (self.run.take_engine,),
            "tree": (self.run.take_tree,),
            "fleet": (self.run.take_fleet,),
            "enrolled": (self.run.take_enrolled,),
            "converged": (self.run.take_converged,),
            "gave_up": (self.run.take_gave_up,),
        }
        for index, record in enumerate(self.records):
            for take in readers.get(record.kind, ()):
                take(index, record)


_last: tuple[weakref.ref[History], int, View] | None = None


def view_of(history: History) -> View:
    """Made once for the history that was looked at last."""
    global _last
    if _last is None or _last[0]() is not history or _last[1] != len(history.records):
        _last = (weakref.ref(history), len(history.records), View(history))
    return _last[2]
