"""Promise 15: the engines of one job never overlap, but for early recoveries, and then for at most the lease TTL.

Decides from when engines began and ended in true time. An overlap is legal where the older term was ended because of
a newer session of its factory while that process lived, or at the deadline of a stop that its holder had not heard of;
`expired` may hide either, since another coordinator may finish what was begun, so it counts as one where there was a
newer session or a stop. Each is for at most the TTL.
Silent about whether the engine of an early recovered term did harm: that is promises 3 and 14.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from chaos.checkers.view import Term, View, in_order, view_of
from chaos.history import History, Record, Violation

NAME = "one_engine"

DRIFT = 0.01
DIES_S = 2.0  # from a process' death to its engine's
HEARS_S = 3.0  # from when a stop's deadline is over until its engine must be


@dataclass(slots=True)
class _Engine:
    begun: Record
    ended: Record | None = None

    @property
    def epoch(self) -> int:
        return int(self.begun.data["leaseEpoch"])

    @property
    def over(self) -> float:
        return self.ended.at if self.ended is not None else inf

    @property
    def shown(self) -> tuple[Record, ...]:
        return (self.begun,) if self.ended is None else (self.begun, self.ended)


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    for job_id, engines in _engines(view).items():
        running: list[_Engine] = []
        for engine in engines:
            running = [other for other in running if other.over > engine.begun.at]
            for other in running:
                over = min(other.over, engine.over)
                if over > engine.begun.at and not _legal(view, job_id, other, engine, over - engine.begun.at):
                    yield _overlap(job_id, other, engine)
            running.append(engine)


def _engines(view: View) -> dict[str, list[_Engine]]:
    engines: dict[str, list[_Engine]] = defaultdict(list)
    running: dict[tuple[str, int, str, int], list[_Engine]] = defaultdict(list)
    for _, record in view.engines:
        data = record.data
        key = record.who, data["life"], data["jobId"], data["leaseEpoch"]
        if data["does"] == "begins":
            engine = _Engine(record)
            engines[data["jobId"]].append(engine)
            running[key].append(engine)
        elif running[key]:
            running[key].pop(0).ended = record
    return engines


def _overlap(job_id: str, first: _Engine, second: _Engine) -> Violation:
    over = "the end" if min(first.over, second.over) == inf else f"{min(first.over, second.over):.3f}"
    what = (
        f"{job_id}: the engine of term {first.epoch} ({first.begun.who}) and that of term {second.epoch} "
        f"({second.begun.who}) both ran from {second.begun.at:.3f} to {over}"
    )
    return Violation(NAME, what, in_order(*first.shown, *second.shown))


def _legal(view: View, job_id: str, first: _Engine, second: _Engine, length_s: float) -> bool:
    """Whether the older term was recovered early from a holder that lived and could not know."""
    if first.epoch == second.epoch or length_s > view.timer("leaseTtlS", 60.0) * (1 + DRIFT):
        return False
    old = min(first, second, key=lambda one: one.epoch)
    term = view.terms.get((job_id, old.epoch))
    if term is None:
        return not view.stored
    if term.cause in ("session_gone", "expired") and _superseded(view, term, second.begun.at):
        return True
    return term.cause in ("stop_deadline", "expired") and _stopped_unheard(view, term)


def _superseded(view: View, term: Term, at: float) -> bool:
    """A newer session of the factory was opened while the older one's process lived."""
    life = view.life_of(term.session)
    if life is not None and life.over + DIES_S < at:
        return False
    return any(
        ask.session[0] == term.session[0] and ask.session != term.session and ask.record.at <= at
        for ask in view.asks_of["hello"]
    )


def _stopped_unheard(view: View, term: Term) -> bool:
    stops = [
        event
        for event in view.events[term.job_id]
        if event["type"] == "stop_requested" and event["leaseEpoch"] == term.epoch
    ]
    if not stops:
        return False
    ended = view.seen_event(term.end)
    heard = _heard_stop(view, term)
    return heard is None or ended is None or heard + HEARS_S > ended[1].at


def _heard_stop(view: View, term: Term) -> float | None:
    """By when the holder, having been told, must have ended its engine."""
    by: list[float] = []
    for ask in view.asks:
        answer = ask.answer
        if answer is None or ask.end is None or ask.session != term.session:
            continue
        about = [one for one in answer.get("terms") or () if (one["jobId"], one["leaseEpoch"]) == term.key]
        if ask.op in ("start", "renew", "checkpoint"):
            about += [answer] if (ask.message["jobId"], ask.message["leaseEpoch"]) == term.key else []
        by += [ask.end.at + one["stop"]["byS"] for one in about if one.get("stop")]
    return min(by, default=None)
