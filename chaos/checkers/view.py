"""A history as the checkers want it: asks with their ends, grants that were told, jobs' events, terms, lives, trouble.

It is made in one pass and kept for the history that was looked at last.
"""

from __future__ import annotations

import weakref
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Any, NamedTuple

from chaos.history import Doc, History, Record
from schemas import ids
from schemas.errors import ERRORS, ErrorCode
from schemas.events import TERM_ENDS
from schemas.factory import REST_SESSION
from schemas.ids import LEDGER_ID

TermKey = tuple[str, int]
Session = tuple[str, str]
Span = tuple[float, float]

HOLDERS_EVENTS = frozenset({"started", "checkpointed", "reported", "released"})
NETWORKS = frozenset({"bus", "rest"})
ANSWERS_S = 6.0  # how much longer than a fault a call that it hit may wait for its answer
LANDS_S = 16.0  # how much later than a fault what it held up may still arrive
QUIET_S = 10.0  # without any fault, whatever was under way is over after this
INDEFINITE = frozenset(str(code) for code, spec in ERRORS.items() if not spec.definite)
FENCED = str(ErrorCode.FENCED)


@dataclass(slots=True)
class Ask:
    """One attempt. `end` is what the asker learnt of it; None: nothing, not even that it failed."""

    index: int
    record: Record
    op: str
    message: Doc
    end: Record | None = None
    end_index: int = -1

    @property
    def answer(self) -> Doc | None:
        return self.end.data["answer"] if self.end is not None and self.end.kind == "answered" else None

    @property
    def session(self) -> Session:
        return self.message.get("factoryId", ""), self.message.get("sessionId", REST_SESSION)

    @property
    def shown(self) -> tuple[Record, ...]:
        return (self.record,) if self.end is None else (self.record, self.end)

    @property
    def error(self) -> Doc | None:
        """The error of what was asked; of a report, that of the report and not of the ask that went along."""
        if self.end is None:
            return None
        if self.end.kind == "refused":
            found: Doc = self.end.data["error"]
            return found
        return self.end.data["answer"].get("reportError") if self.op == "report" and self.answer else None

    @property
    def refused(self) -> str | None:
        """The code of a definite refusal."""
        error = self.error
        return None if error is None or error.get("code") in INDEFINITE else str(error.get("code"))

    @property
    def done(self) -> bool:
        answer = self.answer
        return answer is not None and (self.op != "report" or answer.get("report") is not None)

    @property
    def ended(self) -> Doc:
        """What a report or release that is done was answered about the end of its term."""
        assert self.end is not None
        answer: Doc = self.end.data["answer"]
        return answer["report"] if self.op == "report" else answer


class Told(NamedTuple):
    """A grant as a session heard of it."""

    ask: Ask
    grant: Doc

    @property
    def at(self) -> float:
        assert self.ask.end is not None
        return self.ask.end.at

    @property
    def request_id(self) -> str:
        asked = self.ask.message if self.ask.op == "claim" else self.ask.message.get("next") or {}
        return str(asked.get("requestId"))


@dataclass(slots=True)
class SeenTerm:
    """From its claimed event to its end; `end` None: it was open when the run was over."""

    job_id: str
    epoch: int
    product_id: str
    claimed: Doc
    end: Doc | None = None

    @property
    def key(self) -> TermKey:
        return self.job_id, self.epoch

    @property
    def session(self) -> Session:
        return self.claimed["data"].get("factoryId", ""), self.claimed["data"].get("sessionId", "")

    @property
    def request_id(self) -> str:
        return str(self.claimed["data"].get("requestId"))

    @property
    def cause(self) -> str | None:
        """Why the coordinator ended it; None where it did not."""
        return self.end["data"].get("cause") if self.end is not None and self.end["type"] == "reaped" else None


@dataclass(slots=True)
class Life:
    """One process from `up` to `down`."""

    who: str
    number: int
    up: Record
    down: Record | None = None
    pauses: list[Record] = field(default_factory=list)  # paused, resumed, paused, …

    @property
    def over(self) -> float:
        return self.down.at if self.down is not None else inf

    def paused(self) -> Iterator[tuple[Record, float]]:
        """Each pause, and when it ended."""
        begun: Record | None = None
        for record in self.pauses:
            if record.kind == "paused":
                begun = begun or record
            elif begun is not None:
                yield begun, record.at
                begun = None
        if begun is not None:
            yield begun, self.over


class Trouble(NamedTuple):
    """A fault: while it lasts, what it hits may be late, lost, doubled or wrong."""

    begun: float
    over: float
    on: str
    record: Record


class View:
    def __init__(self, history: History) -> None:
        self.history = history
        self.records = history.records
        self.timers: Doc = {}
        self.budgets = False
        self.asks: list[Ask] = []
        self.asks_of: dict[str, list[Ask]] = defaultdict(list)
        self.told: list[Told] = []
        self.told_of: dict[TermKey, list[Told]] = defaultdict(list)
        self.engines: list[tuple[int, Record]] = []
        self.trees: list[tuple[int, Record]] = []
        self.enrolments: dict[str, list[Record]] = defaultdict(list)
        self.lives: dict[str, list[Life]] = defaultdict(list)
        self.troubles: list[Trouble] = []
        self.converged: Record | None = None
        self.gave_up: Record | None = None
        self._seen: dict[tuple[str, int], tuple[int, Record]] = {}
        self.seen: list[tuple[int, Record]] = []
        self._life_of: dict[Session, Life] = {}
        self._read_records()
        self.over_at = self.records[-1].at if self.records else 0.0
        self.stored = "fleet_jobs" in history.documents or any(history.documents.values())
        self.jobs: dict[str, Doc] = {}
        self.ledgers: dict[str, Doc] = {}
        self.events: dict[str, list[Doc]] = {}
        self.terms: dict[TermKey, SeenTerm] = {}
        self.terms_of: dict[str, list[SeenTerm]] = defaultdict(list)
        self.leases: dict[str, Doc] = {doc["id"]: doc for doc in history.documents.get("fleet_leases", ())}
        self._by_op: dict[tuple[str, str], list[Doc]] = defaultdict(list)
        self._read_documents()

    # -- records --

    def _read_records(self) -> None:
        open_asks: dict[Any, Ask] = {}
        faults: dict[tuple[str, str], list[Record]] = defaultdict(list)
        for index, record in enumerate(self.records):
            kind, data = record.kind, record.data
            if kind == "asked":
                ask = Ask(index, record, data["op"], data["message"])
                self.asks.append(ask)
                self.asks_of[ask.op].append(ask)
                open_asks[data["ask"]] = ask
                if "sessionId" in ask.message and record.who in self.lives:
                    self._life_of.setdefault(ask.session, self.lives[record.who][-1])
            elif kind in ("answered", "refused", "unanswered"):
                known = open_asks.pop(data["ask"], None)
                if known is not None:
                    known.end, known.end_index = record, index
                    if kind == "answered":
                        self._note_grants(known)
            elif kind == "seen":
                self._seen.setdefault((data["jobId"], data["seq"]), (index, record))
                self.seen.append((index, record))
            elif kind == "engine":
                self.engines.append((index, record))
            elif kind == "tree":
                self.trees.append((index, record))
            elif kind == "fault":
                self._note_fault(record, faults)
            else:
                self._note_rare(record)
        calm = next(self.history.of("calm"), None)
        for begun in (one for waiting in faults.values() for one in waiting):
            over = calm.at if calm is not None and calm.at >= begun.at else inf
            self.troubles.append(Trouble(begun.at, over, str(begun.data.get("on", "")), begun))

    def _note_grants(self, ask: Ask) -> None:
        answer = ask.answer
        assert answer is not None
        claimed = answer if ask.op == "claim" else (answer.get("next") or {}) if ask.op == "report" else {}
        for grant in claimed.get("grants") or ():
            told = Told(ask, grant)
            self.told.append(told)
            self.told_of[(grant["jobId"], grant["leaseEpoch"])].append(told)

    def _note_fault(self, record: Record, faults: dict[tuple[str, str], list[Record]]) -> None:
        on = str(record.data.get("on", ""))
        waiting = faults[(str(record.data.get("name")), on)]
        if record.data["does"] == "begins":
            waiting.append(record)
        elif record.data["does"] == "once":
            self.troubles.append(Trouble(record.at, record.at, on, record))
        elif waiting:
            begun = waiting.pop(0)
            self.troubles.append(Trouble(begun.at, record.at, on, begun))

    def _note_rare(self, record: Record) -> None:
        kind, data = record.kind, record.data
        if kind == "fleet":
            self.timers, self.budgets = data.get("timers") or {}, bool(data.get("budgets"))
        elif kind == "enrolled":
            self.enrolments[data["factoryId"]].append(record)
        elif kind == "up":
            life = Life(record.who, data.get("life", 0), record)
            self.lives[record.who].append(life)
            if data.get("sessionId"):
                self._life_of.setdefault((record.who.partition(":")[2], data["sessionId"]), life)
        elif kind in ("down", "paused", "resumed"):
            life_now = self.life(record.who, data.get("life"))
            if life_now is None:
                return
            if kind == "down":
                life_now.down = life_now.down or record
            else:
                life_now.pauses.append(record)
        elif kind == "converged":
            self.converged = record
        elif kind == "gave_up":
            self.gave_up = record

    def life(self, who: str, number: int | None) -> Life | None:
        lives = self.lives.get(who) or []
        return next((one for one in reversed(lives) if number is None or one.number == number), None)

    @cached_property
    def ends_of(self) -> dict[tuple[TermKey, Session], list[Ask]]:
        """A holder's reports and releases, by term."""
        found: dict[tuple[TermKey, Session], list[Ask]] = defaultdict(list)
        for op in ("report", "release"):
            for ask in self.asks_of[op]:
                found[(ask.message["jobId"], ask.message["leaseEpoch"]), ask.session].append(ask)
        for asks in found.values():
            asks.sort(key=lambda ask: ask.index)
        return found

    @cached_property
    def asks_by_session(self) -> dict[Session, list[Ask]]:
        found: dict[Session, list[Ask]] = defaultdict(list)
        for ask in self.asks:
            found[ask.session].append(ask)
        return found

    @cached_property
    def terms_by_factory(self) -> dict[str, list[SeenTerm]]:
        found: dict[str, list[SeenTerm]] = defaultdict(list)
        for term in self.terms.values():
            found[term.session[0]].append(term)
        return found

    @cached_property
    def told_by_session(self) -> dict[Session, list[Told]]:
        found: dict[Session, list[Told]] = defaultdict(list)
        for told in self.told:
            found[told.ask.session].append(told)
        return found

    @cached_property
    def first_asked(self) -> dict[tuple[Session, str], Ask]:
        """By session and requestId of a claim, along with a report or alone."""
        found: dict[tuple[Session, str], Ask] = {}
        for ask in self.asks:
            asked = ask.message if ask.op == "claim" else ask.message.get("next") if ask.op == "report" else None
            if asked:
                found.setdefault((ask.session, str(asked["requestId"])), ask)
        return found

    @cached_property
    def sessions_of(self) -> dict[tuple[str, int], list[Session]]:
        """By process and life. The session of those that open none is of no life."""
        found: dict[tuple[str, int], list[Session]] = defaultdict(list)
        for session, life in self._life_of.items():
            if session[1] != REST_SESSION:
                found[life.who, life.number].append(session)
        return found

    @cached_property
    def terms_by_session(self) -> dict[Session, list[SeenTerm]]:
        found: dict[Session, list[SeenTerm]] = defaultdict(list)
        for term in self.terms.values():
            found[term.session].append(term)
        return found

    def life_of(self, session: Session) -> Life | None:
        """The process whose session it is: the first that spoke under it. A later one only delivers its reports."""
        return self._life_of.get(session)

    # -- documents --

    def _read_documents(self) -> None:
        for doc in self.history.documents.get("fleet_jobs", ()):
            if doc["id"] == LEDGER_ID:
                self.ledgers[doc["productId"]] = doc
            elif "stage" in doc:
                self.jobs[doc["id"]] = doc
        by_job: dict[str, dict[int, Doc]] = defaultdict(dict)
        for event in self.history.documents.get("fleet_events", ()):
            by_job[event["jobId"]].setdefault(event["seq"], event)
        for job in self.jobs.values():
            for event in job.get("outbox") or ():
                by_job[job["id"]].setdefault(event["seq"], event)
        for job_id, events in by_job.items():
            self.events[job_id] = [events[seq] for seq in sorted(events)]
            for event in self.events[job_id]:
                self._note_event(job_id, event)

    def _note_event(self, job_id: str, event: Doc) -> None:
        key = (job_id, event["leaseEpoch"])
        self._by_op[job_id, event["opId"]].append(event)
        if event["type"] == "claimed":
            if key not in self.terms:
                self.terms[key] = SeenTerm(job_id, event["leaseEpoch"], event["productId"], event)
                self.terms_of[job_id].append(self.terms[key])
        elif event["type"] in TERM_ENDS:
            term = self.terms.get(key)
            if term is not None and term.end is None:
                term.end = event

    def with_op(self, job_id: str, op_id: str) -> list[Doc]:
        return self._by_op.get((job_id, op_id), [])

    def of_op(self, ask: Ask) -> list[Doc]:
        """The events that tell of this holder's ask, or of a repeat of it."""
        job_id, epoch = ask.message["jobId"], ask.message["leaseEpoch"]
        if ask.op == "start":
            op_id = ids.start_op(job_id, epoch)
        elif ask.op == "checkpoint":
            op_id = ids.checkpoint_op(job_id, epoch, ask.message["number"])
        else:
            op_id = ids.end_op(job_id, epoch)
        said = (f"factory:{ask.session[0]}", ask.session[1])
        return [one for one in self.with_op(job_id, op_id) if (one["actor"], one["data"].get("sessionId")) == said]

    # -- true time --

    def seen_event(self, event: Doc | None) -> tuple[int, Record] | None:
        """When a commit became visible, where the world says so."""
        return None if event is None else self._seen.get((event["jobId"], event["seq"]))

    def shown(self, *events: Doc | None) -> tuple[Record, ...]:
        """The records of when these became visible, where there are any."""
        found = (self.seen_event(event) for event in events)
        return tuple(one[1] for one in found if one is not None)

    def seen_claim(self, grant: Doc) -> tuple[int, Record] | None:
        term = self.terms.get((grant["jobId"], grant["leaseEpoch"]))
        return self.seen_event(term.claimed) if term is not None else None

    def span_of(self, term: SeenTerm) -> Span | None:
        """When the term was open; None where that was not seen."""
        begun, ended = self.seen_event(term.claimed), self.seen_event(term.end)
        if begun is None or (term.end is not None and ended is None):
            return None
        return begun[1].at, ended[1].at if ended is not None else inf

    def timer(self, name: str, default: float) -> float:
        return float(self.timers.get(name, default))

    @cached_property
    def working(self) -> list[Span]:
        """When one coordinator did its work: it was up and ran, and its way to the store was good. One span is one
        coordinator's; those of several may overlap.
        """
        spans: list[Span] = []
        for who, lives in self.lives.items():
            if who.startswith("coordinator:"):
                bad = [(one.begun, one.over + ANSWERS_S) for one in self.troubles if self._hinders(one.on, who)]
                for life in lives:
                    paused = [(begun.at, over) for begun, over in life.paused()]
                    spans += without((life.up.at, min(life.over, self.over_at)), merged([*bad, *paused]))
        return sorted(spans)

    @property
    def coordinators(self) -> int:
        return sum(who.startswith("coordinator:") for who in self.lives)

    def _hinders(self, on: str, coordinator: str) -> bool:
        """Faults of the network or of other processes keep no coordinator from its own loops."""
        return on == coordinator or not (on in NETWORKS or on.startswith("coordinator:") or self.is_factory(on))

    def is_factory(self, on: str) -> bool:
        return on.startswith("factory:") or f"factory:{on}" in self.lives

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
        spans = [(one.begun, one.over + LANDS_S) for one in self.troubles]
        for who, lives in self.lives.items():
            if who.startswith("coordinator:"):
                for life in lives:
                    spans += [(begun.at, over) for begun, over in life.paused()]
                    spans += [(one.at, one.at + LANDS_S) for one in (life.up, life.down) if one is not None]
        return merged(spans)


def in_order(*records: Record) -> tuple[Record, ...]:
    """As they came, each once."""
    each = {id(record): record for record in records}
    return tuple(sorted(each.values(), key=lambda record: record.at))


def merged(spans: Iterable[Span]) -> list[Span]:
    result: list[Span] = []
    for low, high in sorted(spans):
        if result and low <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], high))
        else:
            result.append((low, high))
    return result


def without(whole: Span, holes: list[Span]) -> list[Span]:
    """What is left of `whole`; the holes are merged."""
    left: list[Span] = []
    low, high = whole
    for begun, over in holes:
        if over < low or begun > high:
            continue
        if begun > low:
            left.append((low, begun))
        low = max(low, over)
    if low < high:
        left.append((low, high))
    return left


_last: tuple[weakref.ref[History], int, View] | None = None


def view_of(history: History) -> View:
    global _last
    if _last is None or _last[0]() is not history or _last[1] != len(history.records):
        _last = (weakref.ref(history), len(history.records), View(history))
    return _last[2]
