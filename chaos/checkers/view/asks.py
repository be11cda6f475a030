"""What was asked, what the asker learnt of it, and which grants it was told of."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from chaos.history import Doc, Record
from schemas.errors import ERRORS, ErrorCode
from schemas.factory import REST_SESSION

TermKey = tuple[str, int]
Session = tuple[str, str]

INDEFINITE = frozenset(str(code) for code, spec in ERRORS.items() if not spec.definite)
FENCED = str(ErrorCode.FENCED)


@dataclass(slots=True)
class Ask:
    """One attempt. `end` is what the asker learnt of it; None: nothing, not even that it failed."""

    index: int
    record: Record
    op: str
    message: Doc
    session: Session
    end: Record | None = None
    end_index: int = -1

    @property
    def answer(self) -> Doc | None:
        return self.end.data["answer"] if self.end is not None and self.end.kind == "answered" else None

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


class AskReader:
    """Reads the records asked, answered, refused and unanswered."""

    def __init__(self) -> None:
        self.all: list[Ask] = []
        self.of: dict[str, list[Ask]] = defaultdict(list)
        self.told: list[Told] = []
        self.told_of: dict[TermKey, list[Told]] = defaultdict(list)
        self._open: dict[Any, Ask] = {}

    def take_asked(self, index: int, record: Record) -> None:
        message = record.data["message"]
        session = message.get("factoryId", ""), message.get("sessionId", REST_SESSION)
        ask = Ask(index, record, record.data["op"], message, session)
        self.all.append(ask)
        self.of[ask.op].append(ask)
        self._open[record.data["ask"]] = ask

    def take_end(self, index: int, record: Record) -> None:
        ask = self._open.pop(record.data["ask"], None)
        if ask is None:
            return
        ask.end, ask.end_index = record, index
        if record.kind == "answered":
            self._note_grants(ask)

    def _note_grants(self, ask: Ask) -> None:
        answer = ask.answer
        assert answer is not None
        claimed = answer if ask.op == "claim" else (answer.get("next") or {}) if ask.op == "report" else {}
        for grant in claimed.get("grants") or ():
            told = Told(ask, grant)
            self.told.append(told)
            self.told_of[(grant["jobId"], grant["leaseEpoch"])].append(told)

    @cached_property
    def ends_of(self) -> dict[tuple[TermKey, Session], list[Ask]]:
        """A holder's reports and releases, by term."""
        found: dict[tuple[TermKey, Session], list[Ask]] = defaultdict(list)
        for op in ("report", "release"):
            for ask in self.of[op]:
                found[(ask.message["jobId"], ask.message["leaseEpoch"]), ask.session].append(ask)
        for asks in found.values():
            asks.sort(key=lambda ask: ask.index)
        return found

    @cached_property
    def by_session(self) -> dict[Session, list[Ask]]:
        found: dict[Session, list[Ask]] = defaultdict(list)
        for ask in self.all:
            found[ask.session].append(ask)
        return found

    @cached_property
    def told_by_session(self) -> dict[Session, list[Told]]:
        found: dict[Session, list[Told]] = defaultdict(list)
        for told in self.told:
            found[told.ask.session].append(told)
        return found

    @cached_property
    def first(self) -> dict[tuple[Session, str], Ask]:
        """By session and requestId of a claim, along with a report or alone."""
        found: dict[tuple[Session, str], Ask] = {}
        for ask in self.all:
            asked = ask.message if ask.op == "claim" else ask.message.get("next") if ask.op == "report" else None
            if asked:
                found.setdefault((ask.session, str(asked["requestId"])), ask)
        return found
