"""Promise 13: a claimable job and a free factory that fits it never coexist longer than a few seconds.

Decides from when events were seen, and only in quiet: no fault, no coordinator coming or going, for so long before that
whatever was lost has been made up for. There a job is queued, its lock free and its product not paused; and a factory
lives, has opened its session, does not drain, has a free seat by its own count, and fits by enrolment, capabilities and
engine. If both are so without a break for N seconds, nobody matched them.
Silent about jobs with a `cwd` or whose checkpoint may lie on one machine, about factories that have ever said that a
quota is used up or that share their name with a second process, about clients without a session, and about budgets
that are exhausted.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from chaos.checkers.blame import could_not
from chaos.checkers.view import Ask, Life, Session, Span, TermKey, View, merged, view_of, without
from chaos.history import Doc, History, Record, Violation

NAME = "no_idle_match"

N_S = 6.0
MADE_UP_FOR_S = 16.0  # after trouble: late writes have landed, who was not heard of is, indexes are read anew
JOINS_S = 5.0  # from the answer to its hello until a factory asks and listens
GIVES_UP_S = 15.0  # from when a claim was not answered until its seat is free again

Queued = tuple[Span, Record]


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    quiet = [span for span in _quiet(view) if span[1] - span[0] > N_S]
    if not quiet:
        return
    elsewhere = _may_lie_elsewhere(view)
    jobs = [job for job in view.docs.jobs.values() if job.get("cwd") is None and job["id"] not in elsewhere]
    found = ((job["id"], _claimable(view, job, quiet)) for job in jobs)
    waiting = {job_id: spans for job_id, spans in found if spans}
    if not waiting:
        return
    for who, lives in view.lives.all.items():
        if who.startswith("factory:"):
            for life in lives:
                free = _free(view, life, lives)
                for job_id, spans in waiting.items() if free else ():
                    yield from _unmatched(view, view.docs.jobs[job_id], spans, life, free)


def _unmatched(view: View, job: Doc, spans: list[Queued], life: Life, free: list[Span]) -> Iterator[Violation]:
    for (queued, over), record in spans:
        for begun, ended in free:
            low, high = max(queued, begun), min(over, ended)
            if high - low > N_S and _fits(view, job, life, low):
                what = f"{job['id']} waited from {low:.3f} to {high:.3f} while {life.who} fitted it and had a free seat"
                yield Violation(NAME, what, (life.up, record))
                return


def _quiet(view: View) -> list[Span]:
    """Without any trouble, and long enough after it."""
    holes = [(one.begun, one.over + MADE_UP_FOR_S) for one in view.troubles.all]
    for who, lives in view.lives.all.items():
        if who.startswith("coordinator:"):
            for life in lives:
                holes += [(begun.at, over + MADE_UP_FOR_S) for begun, over in life.paused()]
                holes += [(one.at, one.at + MADE_UP_FOR_S) for one in (life.up, life.down) if one is not None]
    return without((0.0, view.over_at), merged(holes)) if view.troubles.working else []


# -- jobs --


def _may_lie_elsewhere(view: View) -> set[str]:
    """Jobs of which a checkpoint was ever said to lie on one machine."""
    found = {ask.message["jobId"] for ask in view.asks.of["checkpoint"] if ask.message.get("local")}
    for op in ("report", "release"):
        for ask in view.asks.of[op]:
            if (ask.message.get("checkpoint") or {}).get("local"):
                found.add(ask.message["jobId"])
    return found


def _claimable(view: View, job: Doc, quiet: list[Span]) -> list[Queued]:
    """When it was queued with nothing in its way, in quiet; each with the record that made it queued."""
    found: list[Queued] = []
    blocked = merged([*_locked(view, job), *_paused(view, job["productId"])])
    since: Record | None = None
    for event in [*view.docs.events.get(job["id"], ()), None]:
        seen = view.seen.event(event)
        if event is not None and seen is None:
            return []
        if since is not None:
            whole = since.at, seen[1].at if seen is not None else view.over_at
            for low, high in quiet:
                if max(low, whole[0]) < min(high, whole[1]):
                    clipped = max(low, whole[0]), min(high, whole[1])
                    found += [(span, since) for span in without(clipped, blocked) if span[1] - span[0] > N_S]
        since = seen[1] if seen is not None and event is not None and event["to"] == "queued" else None
    return found


def _locked(view: View, job: Doc) -> list[Span]:
    """When another job of its product held its lock."""
    if not job.get("lock"):
        return []
    spans: list[Span] = []
    for other in view.docs.jobs.values():
        if other["id"] != job["id"] and (other["productId"], other.get("lock")) == (job["productId"], job["lock"]):
            for term in view.docs.terms_of.get(other["id"], ()):
                spans.append(view.seen.span_of(term) or (0.0, inf))
    return spans


def _paused(view: View, product: str) -> list[Span]:
    """From each pause's ask until a resume is answered; a resume that is not answered ends nothing."""
    spans: list[Span] = []
    begun: float | None = None
    asks = sorted((ask for ask in view.asks.of["pause"] if ask.message["productId"] == product), key=_settled_at)
    for ask in asks:
        if ask.message["paused"]:
            begun = ask.record.at if begun is None else min(begun, ask.record.at)
        elif ask.done and begun is not None:
            spans.append((begun, _settled_at(ask)))
            begun = None
    return [*spans, (begun, inf)] if begun is not None else spans


def _settled_at(ask: Ask) -> float:
    return ask.end.at if ask.end is not None else inf


# -- factories --


def _free(view: View, life: Life, lives: list[Life]) -> list[Span]:
    """When it had a free seat, and nothing kept it from asking."""
    sessions = view.lives.sessions_of.get((life.who, life.number), ())
    if len(sessions) != 1 or any(
        other is not life and other.over > life.up.at and other.up.at < life.over for other in lives
    ):
        return []
    (session,) = sessions
    asks = view.asks.by_session[session]
    opened = next(
        (ask for ask in asks if ask.op == "hello" and ask.done and (ask.answer or {}).get("opened", True)), None
    )
    if opened is None or opened.end is None or any(_quota(ask) for ask in asks):
        return []
    over = min([life.over, view.over_at, *(ask.record.at - JOINS_S for ask in asks if ask.message.get("draining"))])
    busy = merged([*_own_trouble(life), *_unfit(asks), *_busy(view, session, asks, life)])
    return [span for span in without((opened.end.at + JOINS_S, over), busy) if span[1] - span[0] > N_S]


def _quota(ask: Ask) -> bool:
    return bool(ask.op == "report" and ask.message["result"].get("outcome") == "quota_exhausted")


def _unfit(asks: list[Ask]) -> Iterator[Span]:
    """From when it may have turned unfit for work until some time after it said that it is not."""
    begun: float | None = None
    for ask in asks:
        if ask.op != "heartbeat":
            continue
        if ask.message.get("unfit"):
            begun = ask.record.at - JOINS_S if begun is None else begun
        elif begun is not None and ask.done:
            yield begun, _settled_at(ask) + MADE_UP_FOR_S
            begun = None
    if begun is not None:
        yield begun, inf


def _own_trouble(life: Life) -> Iterator[Span]:
    for begun, over in life.paused():
        yield begun.at, over + MADE_UP_FOR_S


def _busy(view: View, session: Session, asks: list[Ask], life: Life) -> list[Span]:
    """When all its seats were taken, by terms or by claims that nobody answered."""
    changes: list[tuple[float, int]] = []
    for low, high, seats in _seats_taken(view, session, asks):
        changes += [(low, seats), (high, -seats)]
    busy: list[Span] = []
    taken, since = 0, 0.0
    seats = int(life.up.data.get("seats") or 1)
    for at, change in sorted(changes):
        before, taken = taken, taken + change
        if before < seats <= taken:
            since = at
        elif taken < seats <= before:
            busy.append((since, at))
    return [*busy, (since, inf)] if taken >= seats else busy


def _seats_taken(view: View, session: Session, asks: list[Ask]) -> Iterator[tuple[float, float, int]]:
    """A term takes a seat from the claim's ask until its end is known to its holder and to the store."""
    ended: dict[TermKey, float] = {}
    for ask in asks:
        if ask.op in ("report", "release") and (ask.done or ask.refused is not None):
            key = ask.message["jobId"], ask.message["leaseEpoch"]
            ended[key] = min(ended.get(key, inf), _settled_at(ask))
        elif ask.op == "claim" and (ask.end is None or ask.end.kind == "unanswered"):
            yield ask.record.at, _settled_at(ask) + GIVES_UP_S, int(ask.message.get("max") or 1)
    asked: dict[TermKey, float] = {}
    for told in view.asks.told_by_session.get(session, ()):
        first = view.asks.first[session, told.request_id].record.at
        key = told.grant["jobId"], told.grant["leaseEpoch"]
        asked[key] = min(first, asked.get(key, inf))
    for term in view.docs.terms_by_factory.get(session[0], ()):
        low, high = view.seen.span_of(term) or (0.0, inf)
        mine = term.key in asked
        yield min(low, asked.pop(term.key, low)), max(high, ended.get(term.key, inf)) if mine else high, 1
    for key, low in asked.items():
        yield low, ended.get(key, inf), 1


def _fits(view: View, job: Doc, life: Life, at: float) -> bool:
    factory = life.who.removeprefix("factory:")
    records = view.run.enrolments.get(factory, ())
    if not records or any(record.at > at - N_S for record in records):
        return False
    if factory in could_not(view.docs.events.get(job["id"], ())):
        return False
    enrolled, said, wanted = records[-1].data, life.up.data, set(job["capabilities"])
    return (
        job["productId"] in enrolled["products"]
        and wanted <= set(enrolled["capabilities"]) & set(said.get("capabilities") or ())
        and job["engine"] in (said.get("engines") or ())
    )
