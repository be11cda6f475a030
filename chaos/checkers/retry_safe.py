"""Promise 7: submit, claim, report and operators' actions may be repeated with the same key and take effect once.

Decides from answers under one key, which agree, and from op ids, of which each job has one event. A claim's op id may
recur: a late duplicate of a settled request may win a new term. But while a term of a request is open, a claim under
it that was asked after the term began is answered with it, and adds no other to it.
Silent about terms of which the world does not say when they began and ended; about claims whose factory was enrolled
anew for other products; and about a second term within seconds of the first, which a claim under way may add.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator

from chaos.checkers.view import Ask, SeenTerm, Session, View, view_of
from chaos.history import History, Record, Violation
from schemas.errors import ErrorCode

NAME = "retry_safe"

UNDER_WAY_S = 10.0  # in calm, no claim takes longer from its look at what is held to its commit

BEFORE_LOOKING = frozenset(
    map(str, (ErrorCode.FENCED, ErrorCode.UNAUTHORIZED, ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND, ErrorCode.TOO_LARGE))
) | {str(ErrorCode.RATE_LIMITED), str(ErrorCode.INVALID_REQUEST)}


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    yield from _agree(view)
    yield from _one_event_each(view)
    yield from _claims(view)


def _agree(view: View) -> Iterator[Violation]:
    """All answers under one key tell of the same effect."""
    first: dict[Hashable, tuple[object, Ask]] = {}
    for key, effect, ask in _effects(view):
        known, earlier = first.setdefault(key, (effect, ask))
        if known != effect:
            what = f"{ask.op} {ask.message.get('idempotencyKey') or ask.message.get('jobId')} was answered differently"
            yield Violation(NAME, f"{what}: {known} and {effect}", (*earlier.shown, *ask.shown))


def _effects(view: View) -> Iterator[tuple[Hashable, object, Ask]]:
    for ask in view.asks.of["submit"]:
        if ask.answer is not None:
            yield ("submit", ask.message["productId"], ask.message["idempotencyKey"]), ask.answer["jobId"], ask
    for ask in view.asks.of["act"]:
        if ask.answer is not None:
            message = ask.message
            key = "act", ask.record.who, message["jobId"], message["action"], message["idempotencyKey"]
            yield key, (ask.answer["jobId"], ask.answer["opId"]), ask
    for op in ("report", "release"):
        for ask in view.asks.of[op]:
            if ask.done:
                yield ("end", ask.message["jobId"], ask.message["leaseEpoch"], ask.session), ask.ended["stage"], ask


def _one_event_each(view: View) -> Iterator[Violation]:
    for job_id, events in view.docs.events.items():
        counts = Counter(event["opId"] for event in events)
        for event in events:
            if event["type"] != "claimed" and counts[event["opId"]] > 1:
                told = [one for one in events if one["opId"] == event["opId"]]
                if told[0] is event:
                    what = f"{event['opId']} took effect {len(told)} times on {job_id}"
                    yield Violation(NAME, f"{what}: {', '.join(one['id'] for one in told)}", view.seen.shown(*told))


Request = tuple[Session, str]


def _claims(view: View) -> Iterator[Violation]:
    terms: dict[Request, list[tuple[float, float, SeenTerm]]] = defaultdict(list)
    for term in view.docs.terms.values():
        span = view.seen.span_of(term)
        if span is not None:
            terms[term.session, term.request_id].append((*span, term))
    for op in ("claim", "report"):
        for ask in view.asks.of[op]:
            asked = (ask.message if op == "claim" else ask.message.get("next")) or {}
            mine = terms.get((ask.session, asked.get("requestId", "")))
            if mine and ask.end is not None:
                yield from _answered_with_the_open(view, ask, asked["requestId"], mine)
    for (session, request_id), mine in terms.items():
        if len(mine) > 1:
            yield from _added(view, session, request_id, sorted(mine, key=lambda one: one[0]))


def _answered_with_the_open(
    view: View, ask: Ask, request_id: str, terms: list[tuple[float, float, SeenTerm]]
) -> Iterator[Violation]:
    assert ask.end is not None
    told = _told_of(ask)
    if told is None:
        return
    for begun, over, term in terms:
        if begun < ask.record.at and ask.end.at < over and term.key not in told and _serves(view, ask, term):
            what = f"{request_id} held term {term.epoch} of {term.job_id}, and its repeat was not answered with it"
            yield Violation(NAME, what, (*view.seen.shown(term.claimed), *ask.shown))


def _told_of(ask: Ask) -> set[tuple[str, int]] | None:
    """The terms that a claim was answered with; None where nobody looked for any."""
    answer = ask.answer
    if ask.op == "report":
        if answer is None:
            return None
        error, answer = answer.get("nextError"), answer.get("next")
        code = str(error.get("code")) if error else None
    else:
        code = ask.refused
    if answer is None and (
        code is None or code in BEFORE_LOOKING or code in (ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL)
    ):
        return None
    return {(grant["jobId"], grant["leaseEpoch"]) for grant in (answer or {}).get("grants") or ()}


def _serves(view: View, ask: Ask, term: SeenTerm) -> bool:
    """Whether its factory served the term's product all the time: what is held elsewhere is not looked at."""
    return all(term.product_id in record.data["products"] for record in view.run.enrolments.get(ask.session[0], ()))


def _added(
    view: View, session: Session, request_id: str, terms: list[tuple[float, float, SeenTerm]]
) -> Iterator[Violation]:
    for place, (begun, _, later) in enumerate(terms):
        for earlier_begun, earlier_over, earlier in terms[:place]:
            if earlier_begun + UNDER_WAY_S < begun < earlier_over and view.troubles.all_calm(
                begun - UNDER_WAY_S, begun
            ):
                what = (
                    f"{session[0]} was granted {later.job_id} under {request_id}, which held {earlier.job_id} "
                    f"since {earlier_begun:.3f}"
                )
                shown: tuple[Record, ...] = view.seen.shown(earlier.claimed, later.claimed)
                yield Violation(NAME, what, shown)
                break
