"""Promise 8: losing any or all messages of the bus delays work, and never loses or doubles it.

Decides from engines: each begins in a term that its session was granted in an answer before, never on an offer's word;
and a request, on whatever way it was asked, has no more terms started than the seats it asked for. And from outages of
the bus alone: a factory that lives through one and asks over REST is answered by somebody.
Silent about what is lost for good, which is promise 4; about asks that wait for work; and about an outage with other
trouble beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from chaos.checkers.view import ANSWERS_S, Ask, Life, Session, TermKey, Told, Trouble, View, view_of
from chaos.history import History, Record, Violation

NAME = "bus_holds_no_truth"

ASKS_MIN = 3


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    yield from _engines(view)
    for outage in view.troubles.all:
        if outage.on == "bus" and not _other_trouble(view, outage):
            for who, lives in view.lives.all.items():
                if who.startswith("factory:"):
                    for life in lives:
                        yield from _unheard(view, outage, life)


def _engines(view: View) -> Iterator[Violation]:
    started: dict[tuple[Session, str], dict[TermKey, Record]] = defaultdict(dict)
    for index, record in view.run.engines:
        data = record.data
        if data["does"] != "begins":
            continue
        key, session = (data["jobId"], data["leaseEpoch"]), (record.who.removeprefix("factory:"), data["sessionId"])
        told = [
            one for one in view.asks.told_of.get(key, ()) if one.ask.session == session and one.ask.end_index < index
        ]
        if not told:
            what = f"{session[0]} began an engine in term {key[1]} of {key[0]}, which it had not been granted"
            yield Violation(NAME, what, (record,))
            continue
        terms = started[session, told[0].request_id]
        if key not in terms:
            terms[key] = record
            if len(terms) == _seats(told[0]) + 1:
                what = f"{session[0]} began {len(terms)} terms under {told[0].request_id}, asked for {_seats(told[0])}"
                yield Violation(NAME, what, tuple(terms.values()))


def _seats(told: Told) -> int:
    asked = told.ask.message if told.ask.op == "claim" else told.ask.message["next"]
    return int(asked.get("max") or 1)


def _other_trouble(view: View, outage: Trouble) -> bool:
    return any(
        other is not outage and other.on != "bus" and not view.lives.is_factory(other.on) and _meet(other, outage)
        for other in view.troubles.all
    )


def _meet(one: Trouble, other: Trouble) -> bool:
    return one.begun <= other.over and other.begun <= one.over + ANSWERS_S


def _unheard(view: View, outage: Trouble, life: Life) -> Iterator[Violation]:
    """Nothing that it asked over REST, and that was not to wait, was answered while the outage lasted."""
    if life.over <= outage.begun or any(_meet(one, outage) for one in view.troubles.all if one.on == life.who):
        return
    over = min(outage.over, life.over, view.over_at)
    if sum(low <= outage.begun and over <= high for low, high in view.troubles.working) < view.lives.coordinators:
        return  # a balancer may lead to the one that is down
    last = over - ANSWERS_S
    asks: list[Ask] = []
    for session in view.lives.sessions_of.get((life.who, life.number), ()):
        for ask in view.asks.by_session[session]:
            if (
                ask.record.data["over"] == "rest"
                and outage.begun < ask.record.at < last
                and not ask.message.get("waitS")
            ):
                asks.append(ask)
    if len(asks) >= ASKS_MIN and not any(ask.end is not None and ask.end.kind != "unanswered" for ask in asks):
        what = f"while the bus was away, {life.who} asked {len(asks)} times over REST and was not answered once"
        yield Violation(NAME, what, (outage.record, *asks[0].shown, *asks[-1].shown))
