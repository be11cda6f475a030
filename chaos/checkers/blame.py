"""Promise 17: a job meets no machine again that could not do it, and pays only for what its own programs did.

Decides from each job's events: claims after a `machine_failed` of the same factory, until a person requeues the job;
and the retries in its document against the ends that an engine or a check brought about.
Silent about a job whose events or document are not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from chaos.checkers.view import view_of
from chaos.history import Doc, History, Violation

NAME = "blame"

PAID = frozenset({"engine_failed", "verify_failed", "timeout", "stalled"})  # written down here once more on purpose
GIVEN_BACK = frozenset({"requeued", "rejected"})


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    for job_id, job in view.docs.jobs.items():
        events = view.docs.events.get(job_id, ())
        yield from _met_again(job_id, events)
        if events and events[-1]["seq"] == len(events):
            yield from _charged(job_id, job, events)


def could_not(events: Sequence[Doc]) -> set[str]:
    """Factories that ever reported of the job that they could not do it."""
    found, holder = set(), ""
    for event in events:
        if event["type"] == "claimed":
            holder = event["data"]["factoryId"]
        elif event["type"] == "reported" and event["data"]["outcome"] == "machine_failed":
            found.add(holder)
    return found


def _met_again(job_id: str, events: Sequence[Doc]) -> Iterator[Violation]:
    since = 0
    for at, event in enumerate(events):
        if event["type"] in GIVEN_BACK:
            since = at
        elif event["type"] == "claimed" and event["data"]["factoryId"] in could_not(events[since:at]):
            what = f"{job_id} was given to {event['data']['factoryId']} again, which had said that it cannot do it"
            yield Violation(NAME, what, ())


def _charged(job_id: str, job: Doc, events: Sequence[Doc]) -> Iterator[Violation]:
    paid = 0
    for event in events:
        if event["type"] in GIVEN_BACK:
            paid = 0
        elif event["type"] in ("reported", "released", "reaped") and event["data"]["outcome"] in PAID:
            paid += 1
    used = (job.get("retries") or {}).get("used")
    if used is not None and used != paid:
        yield Violation(NAME, f"{job_id} has {used} of its retries used; its own programs failed {paid} times", ())
