"""Jobs, their events and terms, as the documents at the end of a run tell them; and when each was seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

from chaos.checkers.view.asks import Ask, Session, TermKey
from chaos.checkers.view.spans import Span
from chaos.history import Doc, Record
from schemas import ids
from schemas.events import TERM_ENDS
from schemas.ids import LEDGER_ID


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


class SeenReader:
    """Reads the records of when a commit became visible, where the world says so."""

    def __init__(self) -> None:
        self.all: list[tuple[int, Record]] = []
        self._first: dict[tuple[str, int], tuple[int, Record]] = {}

    def take(self, index: int, record: Record) -> None:
        self._first.setdefault((record.data["jobId"], record.data["seq"]), (index, record))
        self.all.append((index, record))

    def event(self, event: Doc | None) -> tuple[int, Record] | None:
        """When the commit of an event became visible."""
        return None if event is None else self._first.get((event["jobId"], event["seq"]))

    def shown(self, *events: Doc | None) -> tuple[Record, ...]:
        """The records of when these became visible, where there are any."""
        found = (self.event(event) for event in events)
        return tuple(one[1] for one in found if one is not None)

    def span_of(self, term: SeenTerm) -> Span | None:
        """When the term was open; None where that was not seen."""
        begun, ended = self.event(term.claimed), self.event(term.end)
        if begun is None or (term.end is not None and ended is None):
            return None
        return begun[1].at, ended[1].at if ended is not None else inf


class DocumentReader:
    """Reads the documents."""

    def __init__(self, documents: Mapping[str, Sequence[Doc]]) -> None:
        self.jobs: dict[str, Doc] = {}
        self.ledgers: dict[str, Doc] = {}
        self.events: dict[str, list[Doc]] = {}
        self.terms: dict[TermKey, SeenTerm] = {}
        self.terms_of: dict[str, list[SeenTerm]] = defaultdict(list)
        self.leases: dict[str, Doc] = {doc["id"]: doc for doc in documents.get("fleet_leases", ())}
        self._by_op: dict[tuple[str, str], list[Doc]] = defaultdict(list)
        self._read_jobs(documents.get("fleet_jobs", ()))
        self._read_events(documents.get("fleet_events", ()))

    def _read_jobs(self, documents: Sequence[Doc]) -> None:
        for doc in documents:
            if doc["id"] == LEDGER_ID:
                self.ledgers[doc["productId"]] = doc
            elif "stage" in doc:
                self.jobs[doc["id"]] = doc

    def _read_events(self, documents: Sequence[Doc]) -> None:
        """Those still in an outbox too."""
        by_job: dict[str, dict[int, Doc]] = defaultdict(dict)
        for event in [*documents, *(event for job in self.jobs.values() for event in job.get("outbox") or ())]:
            by_job[event["jobId"]].setdefault(event["seq"], event)
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

    @cached_property
    def terms_by_factory(self) -> dict[str, list[SeenTerm]]:
        found: dict[str, list[SeenTerm]] = defaultdict(list)
        for term in self.terms.values():
            found[term.session[0]].append(term)
        return found

    @cached_property
    def terms_by_session(self) -> dict[Session, list[SeenTerm]]:
        found: dict[Session, list[SeenTerm]] = defaultdict(list)
        for term in self.terms.values():
            found[term.session].append(term)
        return found
