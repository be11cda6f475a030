"""Which terms were recovered early (promise 15) from a holder that lived and could not know of it.

By a newer session of its factory, at the deadline of a stop that it had not heard of, or as vanished while it could
reach nobody. `expired` may hide each, since another coordinator may finish what was begun, so it counts as one where
there was a newer session, a stop, or such trouble.
"""

from __future__ import annotations

from chaos.checkers.view import SeenTerm, View

BUS_ALONE = frozenset({"bus-weather", "bus-outage", "bus-cut", "stream-deleted", "git-trouble", "clock-jump"})
BREAKS_THE_BUS = frozenset({"bus-cut", "bus-outage", "cut-off"})
DRIFT = 0.01
DIES_S = 2.0  # from a process' death to its engine's
HEARS_S = 3.0  # from when a stop's deadline is over until its engine must be


def recovered_early(view: View, term: SeenTerm, at: float) -> bool:
    """Whether at `at` its holder could still take itself for one."""
    if term.cause in ("session_gone", "expired") and _superseded(view, term, at):
        return True
    if term.cause in ("vanished", "expired") and _cut_off(view, term, at):
        return True
    return term.cause in ("stop_deadline", "expired") and _stopped_unheard(view, term)


def _cut_off(view: View, term: SeenTerm, at: float) -> bool:
    """Its connection to the bus broke, and there was trouble by which it could not be heard over REST either."""
    who = f"factory:{term.session[0]}"
    troubles = [(one.on, str(one.record.data.get("name"))) for one in view.troubles.all if one.begun <= at]
    broke = any(on in (who, "bus") and name in BREAKS_THE_BUS for on, name in troubles)
    unheard = any(
        name not in BUS_ALONE and (on in (who, "rest") or not view.lives.is_factory(on)) for on, name in troubles
    )
    return broke and unheard


def _superseded(view: View, term: SeenTerm, at: float) -> bool:
    """A newer session of the factory was opened while the older one's process lived."""
    life = view.lives.life_of(term.session)
    if life is not None and life.over + DIES_S < at:
        return False
    return any(
        ask.session[0] == term.session[0] and ask.session != term.session and ask.record.at <= at
        for ask in view.asks.of["hello"]
    )


def _stopped_unheard(view: View, term: SeenTerm) -> bool:
    stops = [
        event
        for event in view.docs.events[term.job_id]
        if event["type"] == "stop_requested" and event["leaseEpoch"] == term.epoch
    ]
    if not stops:
        return False
    ended = view.seen.event(term.end)
    heard = _heard_stop(view, term)
    return heard is None or ended is None or heard + HEARS_S > ended[1].at


def _heard_stop(view: View, term: SeenTerm) -> float | None:
    """By when the holder, having been told, must have ended its engine."""
    by: list[float] = []
    for ask in view.asks.all:
        answer = ask.answer
        if answer is None or ask.end is None or ask.session != term.session:
            continue
        about = [one for one in answer.get("terms") or () if (one["jobId"], one["leaseEpoch"]) == term.key]
        if ask.op in ("start", "renew", "checkpoint"):
            about += [answer] if (ask.message["jobId"], ask.message["leaseEpoch"]) == term.key else []
        by += [ask.end.at + one["stop"]["byS"] for one in about if one.get("stop")]
    return min(by, default=None)
