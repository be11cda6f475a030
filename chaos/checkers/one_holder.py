"""Promise 1: for each (job, leaseEpoch) at most one factory session ever holds the job.

Decides from grants told, from holders' asks that were answered as done, and from the stored claimed events: all of one
term name one session. And from the order of the events: no term begins while another of that job is open.
Silent about who believed to hold what without having been answered.
"""

from __future__ import annotations

from collections.abc import Iterator

from chaos.checkers.view import Ask, SeenTerm, Session, TermKey, View, view_of
from chaos.history import History, Violation
from schemas.events import TERM_ENDS

NAME = "one_holder"

BY_TERM = ("start", "renew", "checkpoint", "report", "release")


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    first: dict[TermKey, tuple[Session, Ask]] = {}
    for key, ask in _acknowledged(view):
        session, earlier = first.setdefault(key, (ask.session, ask))
        if session != ask.session:
            what = f"term {key[1]} of {key[0]} was acknowledged to {_named(session)} and to {_named(ask.session)}"
            yield Violation(NAME, what, (*earlier.shown, *ask.shown))
        term = view.docs.terms.get(key)
        if term is not None and term.session != ask.session and earlier is ask:
            what = f"term {key[1]} of {key[0]} was claimed by {_named(term.session)}, {_named(ask.session)} was told so"
            yield Violation(NAME, what, ask.shown)
    yield from _one_at_a_time(view)


def _acknowledged(view: View) -> Iterator[tuple[TermKey, Ask]]:
    for told in view.asks.told:
        yield (told.grant["jobId"], told.grant["leaseEpoch"]), told.ask
    for op in BY_TERM:
        for ask in view.asks.of[op]:
            if ask.done:
                yield (ask.message["jobId"], ask.message["leaseEpoch"]), ask
    for ask in view.asks.of["heartbeat"]:
        for term in (ask.answer or {}).get("terms") or ():
            if term["granted"]:
                yield (term["jobId"], term["leaseEpoch"]), ask


def _one_at_a_time(view: View) -> Iterator[Violation]:
    for job_id, events in view.docs.events.items():
        held: SeenTerm | None = None
        for event in events:
            if event["type"] == "claimed":
                term = view.docs.terms[job_id, event["leaseEpoch"]]
                if held is not None:
                    what = f"event {event['id']} begins term {term.epoch} while term {held.epoch} is open"
                    yield Violation(NAME, what, view.seen.shown(held.claimed, event))
                held = term
            elif event["type"] in TERM_ENDS:
                held = None


def _named(session: Session) -> str:
    return f"{session[0]} ({session[1]})"
