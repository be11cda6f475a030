"""Promise 6: each transition has exactly one event, in order, without a gap; runs and leases follow from them.

Decides from the documents: seq 1..job.seq, ids, the chain of stages, the retries used, one run for each claimed event
and one claimed event for each run, a run's end for each term's, leases only of terms that were granted to their holder,
and a closed lease where a coordinator ended the term.
Silent about the run and lease of a term that still has an event in its job's outbox: they may be yet to come. Silent
about a lease that is not there: what is inert may be deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from chaos.checkers.view import SeenTerm, TermKey, View, view_of
from chaos.history import Doc, History, Violation
from schemas.ids import event_id, lease_id, run_id
from schemas.outcome import CHARGED

NAME = "whole_history"


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    if not view.stored:
        return
    yield from _doubles(view)
    for job_id, job in view.docs.jobs.items():
        yield from _chain(job_id, job, view.docs.events.get(job_id, []))
    for job_id in view.docs.events.keys() - view.docs.jobs.keys():
        yield Violation(NAME, f"there are events of {job_id}, and no such job")
    on_their_way = {
        (job["id"], event["leaseEpoch"]) for job in view.docs.jobs.values() for event in job.get("outbox") or ()
    }
    yield from _runs(view, on_their_way)
    yield from _leases(view, on_their_way)


def _doubles(view: View) -> Iterator[Violation]:
    """One event a seq: told twice, by the outbox and by its document, it is the same."""
    stored = {event["id"]: event for event in view.history.documents.get("fleet_events", ())}
    ids = Counter((event["jobId"], event["seq"]) for event in view.history.documents.get("fleet_events", ()))
    for (job_id, seq), count in ids.items():
        if count > 1:
            yield Violation(NAME, f"event {seq} of {job_id} is there {count} times")
    for job in view.docs.jobs.values():
        for event in job.get("outbox") or ():
            other = stored.get(event["id"])
            if other is not None and (other["opId"], other["type"]) != (event["opId"], event["type"]):
                what = f"{event['id']} is {event['type']} ({event['opId']}) in the outbox and {other['type']} "
                yield Violation(NAME, f"{what}({other['opId']}) in the store")


def _chain(job_id: str, job: Doc, events: list[Doc]) -> Iterator[Violation]:
    seqs = [event["seq"] for event in events]
    if seqs != list(range(1, job["seq"] + 1)):
        missing = sorted(set(range(1, job["seq"] + 1)) - set(seqs))
        beyond = sorted(seq for seq in seqs if not 1 <= seq <= job["seq"])
        yield Violation(NAME, f"{job_id} is at {job['seq']}: missing are events {missing}, too many are {beyond}")
        return
    stage = None
    for event in events:
        if event["id"] != event_id(job_id, event["seq"]):
            yield Violation(NAME, f"event {event['seq']} of {job_id} has the id {event['id']}")
        if event.get("from") != stage:
            yield Violation(NAME, f"{event['id']} leads from {event.get('from')}, the job was {stage}")
        stage = event["to"]
    if stage != job["stage"]:
        yield Violation(NAME, f"{job_id} is {job['stage']}, its last event leads to {stage}")
    if job.get("pendingEvents", 0) != len(job.get("outbox") or ()):
        yield Violation(NAME, f"{job_id} counts {job['pendingEvents']} events in its outbox of {len(job['outbox'])}")
    used = _retries_used(events)
    if (says := (job.get("retries") or {}).get("used", used)) != used:
        yield Violation(NAME, f"{job_id} counts {says} used retries, its history has {used}")
    held = events[-1]["to"] in ("assigned", "building")
    if held != (job.get("holder") is not None):
        yield Violation(NAME, f"{job_id} is {stage} and its holder is {job.get('holder')}")


def _retries_used(events: list[Doc]) -> int:
    """Charged outcomes since a person last gave the job all its tries back."""
    used = 0
    for event in events:
        if event["type"] in ("requeued", "changes_requested"):
            used = 0
        elif event["type"] == "reported" and event["data"].get("outcome") in CHARGED:
            used += 1
    return used


def _runs(view: View, on_their_way: set[TermKey]) -> Iterator[Violation]:
    runs: dict[TermKey, Doc] = {}
    for run in view.history.documents.get("fleet_runs", ()):
        key = run["jobId"], run["leaseEpoch"]
        if key in runs or run["id"] != run_id(*key):
            yield Violation(NAME, f"term {key[1]} of {key[0]} has a run too many, {run['id']}")
        if key not in view.docs.terms:
            yield Violation(NAME, f"run {run['id']} is of a term that was never granted")
        runs[key] = run
    for key, term in view.docs.terms.items():
        if key in on_their_way:
            continue
        wrong = _run_wrong(term, runs.get(key))
        if wrong:
            yield Violation(NAME, f"term {key[1]} of {key[0]} {wrong}", view.seen.shown(term.claimed))


def _run_wrong(term: SeenTerm, run: Doc | None) -> str | None:
    if run is None:
        return "has no run"
    if (run["factoryId"], run["sessionId"]) != term.session:
        return f"has a run of {run['factoryId']} ({run['sessionId']}), and was claimed by {term.session}"
    if term.end is None:
        return "is open, and its run has ended" if run.get("endedAt") is not None else None
    if run.get("endedAt") is None:
        return "has ended, and its run has not"
    if run.get("outcome") != term.end["data"].get("outcome"):
        return f"ended with {term.end['data'].get('outcome')}, its run says {run.get('outcome')}"
    return None


def _leases(view: View, on_their_way: set[TermKey]) -> Iterator[Violation]:
    counts = Counter(lease["id"] for lease in view.history.documents.get("fleet_leases", ()))
    for lease in view.history.documents.get("fleet_leases", ()):
        key = lease["jobId"], lease["leaseEpoch"]
        term = view.docs.terms.get(key)
        if lease["id"] != lease_id(*key) or counts[lease["id"]] > 1:
            yield Violation(NAME, f"lease {lease['id']} of term {key[1]} of {key[0]} is one too many")
        elif term is None:
            yield Violation(NAME, f"lease {lease['id']} is of a term that was never granted")
        elif (lease["holderFactoryId"], lease["sessionId"]) != term.session:
            yield Violation(NAME, f"lease {lease['id']} is of {lease['holderFactoryId']} ({lease['sessionId']})")
        elif term.cause is not None and lease["status"] != "closed" and key not in on_their_way:
            what = f"the coordinator ended term {key[1]} of {key[0]} ({term.cause}) and left its lease open"
            yield Violation(NAME, what, view.seen.shown(term.end))
