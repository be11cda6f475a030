"""What must hold of the store after every single write, and between the states before and after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from chaos.walk.store_value import StoreValue
from coordinator.store.port import EVENTS, JOBS, LEASES
from schemas.ids import LEDGER_ID

Doc = dict[str, Any]


def broken_by(before: StoreValue, after: StoreValue, *, tries_may_win_two: bool = False) -> Iterator[str]:
    """The laws that the step from one to the other breaks, each as a sentence."""
    jobs = _by_id(after, JOBS)
    yield from _locks(jobs)
    yield from _ledgers(jobs)
    if not tries_may_win_two:
        yield from _requests(jobs)
    was = _by_id(before, JOBS)
    for id_, job in jobs.items():
        if "stage" in job and id_ in was:
            yield from _moved(was[id_], job)
    yield from _paused(was, jobs)
    leases = _by_id(after, LEASES)
    for id_, lease in _by_id(before, LEASES).items():
        if lease["status"] == "closed" and leases[id_] != lease:
            yield f"the closed lease {id_} is {leases[id_]['status']}"
    events = _by_id(after, EVENTS)
    for id_, event in _by_id(before, EVENTS).items():
        if events[id_] != event:
            yield f"event {id_} was written anew"


def _by_id(stored: StoreValue, container: str) -> dict[str, Doc]:
    return {doc["id"]: doc for doc in stored.docs(container)}


def _moved(before: Doc, after: Doc) -> Iterator[str]:
    if after["seq"] < before["seq"] or after["leaseEpoch"] < before["leaseEpoch"]:
        yield f"{after['id']} went back to seq {after['seq']}, epoch {after['leaseEpoch']}"
    holders = (before["holder"], after["holder"])
    if None not in holders and before["leaseEpoch"] == after["leaseEpoch"] and holders[0] != holders[1]:
        yield f"term {after['leaseEpoch']} of {after['id']} has two holders: {holders[0]} and {holders[1]}"
    if before["seq"] == after["seq"] and before["stage"] != after["stage"]:
        yield f"{after['id']} was {before['stage']} and is {after['stage']} at the same seq {after['seq']}"


def _locks(jobs: dict[str, Doc]) -> Iterator[str]:
    held = [job for job in jobs.values() if job.get("holder") and job["lock"]]
    for name, count in Counter((job["productId"], job["lock"]) for job in held).items():
        if count > 1:
            yield f"{count} jobs hold lock {name[1]}"
    says = {doc["id"]: (doc["jobId"], doc["leaseEpoch"]) for doc in jobs.values() if doc.get("type") == "lock"}
    holds = {f"lock:{job['lock']}": (job["id"], job["leaseEpoch"]) for job in held}
    for id_ in says | holds:
        if says.get(id_, (None, None)) != holds.get(id_, (None, None)):
            yield f"{id_} says {says.get(id_)}, the jobs say {holds.get(id_)}"


def _ledgers(jobs: dict[str, Doc]) -> Iterator[str]:
    reserved = sum(job.get("reserved", 0.0) for job in jobs.values() if "stage" in job)
    for doc in jobs.values():
        if doc.get("type") == "ledger" and abs(doc["reserved"] - reserved) > 1e-9:
            yield f"the ledger reserves {doc['reserved']}, the jobs {reserved}"


def _paused(was: dict[str, Doc], jobs: dict[str, Doc]) -> Iterator[str]:
    if not was.get(LEDGER_ID, {}).get("paused"):
        return
    for id_, job in jobs.items():
        if job.get("holder") and not was[id_]["holder"]:
            yield f"{id_} was granted while its product was paused"


def _requests(jobs: dict[str, Doc]) -> Iterator[str]:
    """Every claim of these worlds asks for one job."""
    holders = [job["holder"] for job in jobs.values() if job.get("holder")]
    asked = Counter((one["factoryId"], one["sessionId"], one["requestId"]) for one in holders)
    for who, count in asked.items():
        if count > 1:
            yield f"{count} jobs are held by one request: {who}"
