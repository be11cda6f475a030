"""What must hold of a whole run: what the checkers say, and what only a walk can ask, in which time stands still."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from chaos.checkers import registry
from chaos.history import Doc, History, Record, Violation
from schemas.ids import end_op

NOT_AFTER = {
    "renew": ("expired",),
    "checkpoint": ("expired",),
    "heartbeat": ("expired",),
    "start": ("expired", "not_started"),
}
MOVES_ON = ("queued", "assigned")


def violations(history: History) -> Iterator[Violation]:
    own = (_kept_alive, _own_term, _missed_rightly, _cancelled_stays, _told_of)
    return chain(registry.violations(history), *(law(history) for law in own))


def _kept_alive(history: History) -> Iterator[Violation]:
    """A term that was just answered to live on is not ended, in the same moment, for want of life; nor one that was
    answered to have started, for want of a start.
    """
    ended = {
        (event["jobId"], event["leaseEpoch"]): (event["data"]["cause"], event["at"])
        for event in history.documents["fleet_events"]
        if event["type"] == "reaped"
    }
    for asked, answered in _answered(history):
        for term, left_s, now in _lives(asked, answered):
            cause, at = ended.get(term, (None, None))
            if left_s > 0 and at == now and cause in NOT_AFTER.get(asked.data["op"], ()):
                what = f"its {asked.data['op']} was answered, and in the same moment its term was ended as {cause}"
                yield Violation("kept_alive", what, (asked, answered))


def _lives(asked: Record, answered: Record) -> Iterator[tuple[tuple[str, int], float, str]]:
    """The terms that an answer says are alive: which, how long, and when that was."""
    message, answer = asked.data["message"], answered.data["answer"]
    named = [{**message, **answer}] if "leaseEpoch" in message else answer.get("terms", ())
    for one in named:
        if one.get("term"):
            yield (one["jobId"], one["leaseEpoch"]), one["term"]["leaseLeftS"], one["term"]["now"]


def _answered(history: History) -> Iterator[tuple[Record, Record]]:
    asks = {record.data["ask"]: record for record in history.of("asked")}
    return ((asks[record.data["ask"]], record) for record in history.of("answered"))


def _own_term(history: History) -> Iterator[Violation]:
    """A holder's word ends the term that it named, and no later one of the same session."""
    for event in history.documents["fleet_events"]:
        if event["type"] in ("reported", "released") and event["opId"] != end_op(event["jobId"], event["leaseEpoch"]):
            yield Violation("own_term", f"term {event['leaseEpoch']} was ended by {event['opId']}")


def _missed_rightly(history: History) -> Iterator[Violation]:
    """Only a heartbeat that was asked after a claim can miss its grant."""
    asks = [record.data for record in history.of("asked")]
    beats = [ask["message"]["askNo"] for ask in asks if ask["op"] == "heartbeat"]
    claims = {ask["message"]["requestId"]: ask["message"]["askNo"] for ask in asks if ask["op"] == "claim"}
    claimed = {}
    for event in _in_order(history):
        if event["type"] == "claimed":
            claimed[event["jobId"]] = claims[event["data"]["requestId"]]
        missed = event["data"].get("cause") == "missing"
        if missed and all(beat < claimed[event["jobId"]] for beat in beats):
            yield Violation("missed_rightly", f"{event['id']}: no heartbeat came after its claim")


def _cancelled_stays(history: History) -> Iterator[Violation]:
    """After a cancel a job is not queued again, unless somebody asks for it."""
    cancelled: dict[str, bool] = {}
    for event in _in_order(history):
        job_id = event["jobId"]
        if event["type"] == "cancelled" or event["data"].get("kind") == "cancel":
            cancelled[job_id] = True
        elif event["type"] == "requeued":
            cancelled[job_id] = False
        if cancelled.get(job_id) and event["to"] in MOVES_ON and event["to"] != event["from"]:
            yield Violation("cancelled_stays", f"{job_id} was cancelled, then {event['type']}")


def _in_order(history: History) -> list[Doc]:
    return sorted(history.documents["fleet_events"], key=lambda event: int(event["seq"]))


def _told_of(history: History) -> Iterator[Violation]:
    """Once the sweeper has run there is nothing that is yet to be projected."""
    for job in history.documents["fleet_jobs"]:
        if job.get("outbox"):
            yield Violation("told_of", f"{job['id']} keeps {len(job['outbox'])} events in its outbox")
