"""Promise 5: a job whose holder died is claimable again within TTL + 2 s + one reaper interval, its checkpoint kept.

Decides from when holders' processes went down or were paused, and from when their terms were seen to end. A term is due
when its lease has certainly run out; from then on one coordinator that works without trouble for a reaper's interval
must end it. What the dead had under way may renew once more, and puts that off until it has certainly landed. And each
grant tells the last checkpoint that was accepted, as does the job at the end.
Silent about holders without a session of their own; about terms whose beginning or end nobody saw; and about what a
report or an operator made of a checkpoint, where what was asked leaves two answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from chaos.checkers.view import Ask, SeenTerm, Session, TermKey, View, view_of
from chaos.history import Doc, History, Record, Violation

NAME = "recovery"

DRIFT = 0.01
LATE_S = 2.0  # how long a message may be on its way, though all that its sender knew of was over
PASS_S = 2.0  # how long a reaper may take for one pass

Saved = tuple[str, str] | None


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    for who, lives in view.lives.all.items():
        if who.startswith("factory:"):
            for life in lives:
                gone = [(begun, over) for begun, over in life.paused()]
                gone += [(life.down, inf)] if life.down is not None else []
                for session in view.lives.sessions_of.get((who, life.number), ()) if gone else ():
                    yield from _terms_of_the_gone(view, session, gone)
    yield from _checkpoints(view)


def _terms_of_the_gone(view: View, session: Session, gone: list[tuple[Record, float]]) -> Iterator[Violation]:
    for term in view.docs.terms_by_session.get(session, ()):
        span = _open(view, term)
        for record, back in gone if span is not None else ():
            if span is None or span[1] <= record.at or span[0] >= back:
                continue
            due = _runs_out(view, session, _last_heard(view, term, session, max(record.at, span[0]), back))
            until = min(span[1], back, view.over_at)
            needed = view.run.timer("reaperS", 5.0) * (1 + DRIFT) + PASS_S
            if any(min(high, until) - max(low, due) > needed for low, high in view.troubles.working):
                how = record.data.get("how") or record.kind
                what = (
                    f"{session[0]}, which held term {term.epoch} of {term.job_id}, was {how} at {record.at:.3f}: "
                    f"the lease had run out by {due:.3f}, and at {until:.3f} the term was still open"
                )
                yield Violation(NAME, what, (record, *view.seen.shown(term.end)))
                break


def _open(view: View, term: SeenTerm) -> tuple[float, float] | None:
    span = view.seen.span_of(term)
    if span is None and term.end is None and term.key in view.asks.told_of:
        return min(told.at for told in view.asks.told_of[term.key]), inf
    return span


def _last_heard(view: View, term: SeenTerm, session: Session, gone_at: float, back: float) -> float:
    """Late repeats of what the holder had said keep its term alive, since nobody can tell them from the holder."""
    repeats = (
        ask.end.at
        for ask in view.asks.by_session[session]
        if ask.end is not None and gone_at < ask.record.at < back and ask.message.get("jobId") == term.job_id
    )
    return max(repeats, default=gone_at)


def _runs_out(view: View, session: Session, gone_at: float) -> float:
    """When its lease has run out by any coordinator's clock, whatever was under way."""
    landed = gone_at + LATE_S
    if any(_under_way(ask, gone_at) for ask in view.asks.by_session[session]):
        landed = max(landed, view.troubles.settled_by(gone_at))
    return landed + view.run.timer("leaseTtlS", 60.0) * (1 + DRIFT) + 2 * view.run.timer("skewS", 2.0)


def _under_way(ask: Ask, at: float) -> bool:
    """Nobody can say that it was over by then."""
    return ask.record.at <= at and (ask.end is None or ask.end.kind == "unanswered" or ask.end.at > at)


def _checkpoints(view: View) -> Iterator[Violation]:
    for job_id, events in view.docs.events.items():
        known: dict[TermKey, list[Saved]] = {}
        saved: Saved = None
        certain = True
        for event in events:
            key = job_id, event["leaseEpoch"]
            match event["type"]:
                case "claimed":
                    known[key] = [saved] if certain else []
                case "checkpointed":
                    saved, certain = (event["data"]["ref"], event["data"]["commit"]), True
                    if known.get(key):
                        known[key].append(saved)
                case "reported" | "released":
                    saved, certain = _after_end(view, event, saved, certain)
                case "requeued":
                    certain = certain and not _requeued_with_one(view, job_id)
        for key, possible in known.items():
            for told in view.asks.told_of.get(key, ()):
                if possible and _saved(told.grant.get("checkpoint")) not in possible:
                    what = f"term {key[1]} of {job_id} was told checkpoint {_saved(told.grant.get('checkpoint'))}"
                    yield Violation(NAME, f"{what}; the last accepted was {possible[0]}", told.ask.shown)
        job = view.docs.jobs.get(job_id)
        if job is not None and certain and _saved(job.get("checkpoint")) != saved:
            yield Violation(
                NAME, f"{job_id} ends with checkpoint {_saved(job.get('checkpoint'))}; accepted was {saved}"
            )


def _saved(checkpoint: Doc | None) -> Saved:
    return None if checkpoint is None else (checkpoint["ref"], checkpoint["commit"])


def _after_end(view: View, event: Doc, saved: Saved, certain: bool) -> tuple[Saved, bool]:
    """A report or release may carry the holder's last word on its work."""
    session = event["actor"].removeprefix("factory:"), event["data"].get("sessionId", "")
    op = "report" if event["type"] == "reported" else "release"
    asks = view.asks.ends_of.get(((event["jobId"], event["leaseEpoch"]), session), ())
    said = {_saved(ask.message.get("checkpoint")) for ask in asks if ask.op == op}
    if said == {None}:
        return saved, certain
    return (said.pop(), True) if len(said) == 1 else (None, False)


def _requeued_with_one(view: View, job_id: str) -> bool:
    return any(ask.message["jobId"] == job_id and ask.message.get("checkpoint") for ask in view.asks.of["act"])
