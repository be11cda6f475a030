"""Promise 3: a holder's mutation counts only if factory, session and leaseEpoch are exactly the holder's.

Decides from the order of the events: each of a holder lies within its own term, and was asked for that term. And from
fenced answers: what was fenced has left no event of that asker, and a holder's report is not fenced while its term is
open.
Silent about a fenced start or checkpoint that left an event, where the term has ended or its lease is closed: it was
accepted, and the answer spoke of the term, which was being ended.
"""

from __future__ import annotations

from collections.abc import Iterator

from chaos.checkers.view import FENCED, HOLDERS_EVENTS, Ask, SeenTerm, View, view_of
from chaos.history import Doc, History, Violation
from schemas.events import TERM_ENDS
from schemas.ids import lease_id

NAME = "fencing"


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    for events in view.docs.events.values():
        yield from _within_terms(view, events)
    for op in ("start", "checkpoint", "report", "release"):
        for ask in view.asks.of[op]:
            if ask.refused == FENCED:
                yield from _fenced(view, ask)


def _within_terms(view: View, events: list[Doc]) -> Iterator[Violation]:
    held: SeenTerm | None = None
    for event in events:
        kind = event["type"]
        if kind == "claimed":
            held = view.docs.terms[event["jobId"], event["leaseEpoch"]]
        elif kind in HOLDERS_EVENTS or kind in TERM_ENDS:
            wrong = _not_the_holders(event, held)
            if wrong:
                shown = view.seen.shown(event) if held is None else view.seen.shown(held.claimed, event)
                yield Violation(NAME, f"{event['id']} ({kind}, term {event['leaseEpoch']}) counted: {wrong}", shown)
            if kind in TERM_ENDS:
                held = None


def _not_the_holders(event: Doc, held: SeenTerm | None) -> str | None:
    if held is None:
        return "nobody held the job"
    if event["leaseEpoch"] != held.epoch:
        return f"the running term was {held.epoch}"
    if event["type"] == "reaped":
        return None
    said = (event["actor"].removeprefix("factory:"), event["data"].get("sessionId"))
    if said != held.session:
        return f"it is of {said}, the holder was {held.session}"
    asked_of = f"{event['jobId']}:{held.epoch}:"
    return None if event["opId"].startswith(asked_of) else f"it was asked for another term, as {event['opId']}"


def _fenced(view: View, ask: Ask) -> Iterator[Violation]:
    key = ask.message["jobId"], ask.message["leaseEpoch"]
    term = view.docs.terms.get(key)
    if term is None or term.session != ask.session:
        return
    ends = ask.op in ("report", "release")
    for event in view.docs.of_op(ask):
        lease = view.docs.leases.get(lease_id(*key), {})
        if ends or (term.end is None and lease.get("status") != "closed"):
            what = f"{ask.op} of term {key[1]} of {key[0]} was fenced, yet {event['id']} tells that it took effect"
            yield Violation(NAME, what, (*ask.shown, *view.seen.shown(event)))
    span = view.seen.span_of(term)
    if ends and span is not None and ask.end is not None and span[0] <= ask.record.at and ask.end.at < span[1]:
        what = f"{ask.op} of term {key[1]} of {key[0]} was fenced while its asker held the job"
        yield Violation(NAME, what, (*ask.shown, *view.seen.shown(term.claimed)))
