"""What was answered is so: refused never took effect; done did, before it was answered; unanswered at most once.

Decides by op id from the events in the documents, from submitted jobs, and from factories' sessions. An operation is
refused where each of its attempts was. The claim's own: a grant told is one of its asker's under that request. A
refusal that names the job's stage names one that the job had between ask and answer; and a report's refusal does not
take along the ask for work that came with it.
Silent about a refused claim, of which a late duplicate may still win a term (see promise 8 for what is started by it),
about a start or checkpoint that was fenced (see promise 3), and about what was answered before the world says when.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator

from chaos.checkers.view import FENCED, Ask, View, view_of
from chaos.history import Doc, History, Violation
from schemas.ids import action_op, job_id_for

NAME = "truth"

SAME_S = 0.001
NOTED_S = 0.05  # how much later than readers see it a commit may be noted

HOLDERS = ("start", "checkpoint", "report", "release")


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    if not view.stored:
        return
    for asks in _operations(view).values():
        yield from _judged(view, asks)
    for told in view.asks.told:
        term = view.docs.terms.get((told.grant["jobId"], told.grant["leaseEpoch"]))
        if term is not None:
            if term.session == told.ask.session and term.request_id != told.request_id:
                what = f"term {term.epoch} of {term.job_id} was claimed under {term.request_id}, told {told.request_id}"
                yield Violation(NAME, what, told.ask.shown)
            yield from _too_early(view, told.ask, term.claimed)
    yield from _sessions(view)
    for ask in view.asks.all:
        yield from _refused_by_what_was_not_so(view, ask)


def _refused_by_what_was_not_so(view: View, ask: Ask) -> Iterator[Violation]:
    if ask.op == "report" and ask.message.get("next") and ask.answer is None and ask.refused == FENCED:
        yield Violation(NAME, "a fenced report took along the ask for work that came with it", ask.shown)
    if ask.refused is None or "jobId" not in ask.message:
        return
    said = ((ask.error or {}).get("detail") or {}).get("stage")
    if said is None:
        return
    stages = _stages(view, ask)
    if stages and said not in stages:
        what = f"{ask.op} of {ask.message['jobId']} was refused since the job is {said}; it was {' and '.join(stages)}"
        yield Violation(NAME, what, ask.shown)


def _stages(view: View, ask: Ask) -> list[str]:
    """Those of its job from the ask to the answer; none where that was not seen."""
    assert ask.end is not None
    found: list[str] = []
    for event in view.docs.events.get(ask.message["jobId"], ()):
        seen = view.seen.event(event)
        if seen is None:
            return []
        if seen[0] < ask.index:
            found = [event["to"]]
        elif seen[0] < ask.end_index or seen[1].at <= ask.end.at + NOTED_S:
            found.append(event["to"])
    return found


def _operations(view: View) -> dict[Hashable, list[Ask]]:
    """Attempts by operation. A report and a release of a term are one: the first wins."""
    found: dict[Hashable, list[Ask]] = defaultdict(list)
    for op in HOLDERS:
        kind = "end" if op in ("report", "release") else op
        for ask in view.asks.of[op]:
            message = ask.message
            found[kind, message["jobId"], message["leaseEpoch"], message.get("number"), ask.session].append(ask)
    for ask in view.asks.of["submit"]:
        message = ask.message
        found["submit", message["productId"], message["idempotencyKey"], message["manifestSha256"]].append(ask)
    for ask in view.asks.of["act"]:
        message = ask.message
        found["act", ask.record.who, message["jobId"], message["action"], message["idempotencyKey"]].append(ask)
    return found


def _judged(view: View, asks: list[Ask]) -> Iterator[Violation]:
    name, effects = _effects(view, asks[0])
    done = [ask for ask in asks if ask.done]
    if done and not effects:
        yield Violation(NAME, f"{name} was answered as done, and nothing tells of it", done[0].shown)
    elif done:
        for ask in done:
            yield from _too_early(view, ask, effects[0])
        yield from _otherwise(name, asks, done, effects[0])
    elif effects and all(_refused(ask) for ask in asks):
        what = f"{name} was refused each time ({asks[-1].refused}), yet {effects[0]['id']} tells that it took effect"
        yield Violation(NAME, what, tuple(record for ask in asks for record in ask.shown))
    elif len(effects) > 1:
        told = ", ".join(effect["id"] for effect in effects)
        yield Violation(NAME, f"{name} was not answered, and took effect more than once: {told}", asks[0].shown)


def _refused(ask: Ask) -> bool:
    return ask.refused is not None and not (ask.op in ("start", "checkpoint") and ask.refused == FENCED)


def _effects(view: View, ask: Ask) -> tuple[str, list[Doc]]:
    """The operation's name for people, and the events that tell of it; of a submit its job's first."""
    message = ask.message
    if ask.op == "submit":
        job_id = job_id_for(message["productId"], message["idempotencyKey"])
        job = view.docs.jobs.get(job_id)
        mine = job is not None and job["manifestSha256"] == message["manifestSha256"]
        return f"the submit of {job_id}", [one for one in view.docs.events.get(job_id, ()) if one["seq"] == 1 and mine]
    if ask.op == "act":
        op_id = action_op(message["action"], ask.record.who, message["idempotencyKey"])
        op_id = ask.answer["opId"] if ask.answer is not None else op_id
        return f"{message['action']} of {message['jobId']}", view.docs.with_op(message["jobId"], op_id)
    return f"{ask.op} of term {message['leaseEpoch']} of {message['jobId']}", view.docs.of_op(ask)


def _too_early(view: View, ask: Ask, effect: Doc) -> Iterator[Violation]:
    seen = view.seen.event(effect)
    if seen is not None and ask.end is not None and ask.end.at + SAME_S < seen[1].at:
        yield Violation(NAME, f"{effect['id']} was answered before it was stored", (*ask.shown, seen[1]))


def _otherwise(name: str, asks: list[Ask], done: list[Ask], effect: Doc) -> Iterator[Violation]:
    """Whether what is told is what was asked; of an end only where all its attempts said the same."""
    data = effect["data"]
    for ask in done:
        if ask.op == "checkpoint" and (data["ref"], data["commit"]) != (ask.message["ref"], ask.message["commit"]):
            what = f"{name} was done with {ask.message['commit']}, and {effect['id']} tells of {data['commit']}"
            yield Violation(NAME, what, ask.shown)
    ends = [ask for ask in asks if ask.op in ("report", "release")]
    outcomes = {(ask.op, _outcome(ask)) for ask in ends}
    if len(outcomes) == 1 and effect["type"] in ("reported", "released"):
        ((op, outcome),) = outcomes
        told = {"reported": "report", "released": "release"}[effect["type"]], data["outcome"]
        if told not in ((op, outcome), (op, "cancelled")):
            what = f"{name} was done with {outcome}, and {effect['id']} tells of a {told[0]} with {told[1]}"
            yield Violation(NAME, what, done[0].shown)


def _outcome(ask: Ask) -> str:
    message = ask.message
    return str(message["result"]["outcome"] if ask.op == "report" else message.get("outcome", "released"))


def _sessions(view: View) -> Iterator[Violation]:
    """The highest number that was opened is the stored one, or was passed by."""
    stored = {doc["id"]: doc["sessionNo"] for doc in view.history.documents.get("fleet_factories", ())}
    for ask in view.asks.of["hello"]:
        answer = ask.answer
        if answer is None or not answer.get("opened", True):
            continue
        if stored.get(ask.session[0], answer["sessionNo"]) < answer["sessionNo"]:
            what = f"session {answer['sessionNo']} of {ask.session[0]} was opened"
            yield Violation(NAME, f"{what}; the store is at {stored[ask.session[0]]}", ask.shown)
