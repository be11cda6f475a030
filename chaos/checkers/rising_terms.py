"""Promise 2: each grant of a job has its own leaseEpoch, greater than all before it.

Decides from the claimed events in the order of their seq, and from grants told: each is backed by a claimed event, and
two requests of one session are never told the same term. The stored job's epochs agree with its last claim.
Silent about grants that nobody heard of and no event tells of.
"""

from __future__ import annotations

from collections.abc import Iterator

from chaos.checkers.view import Session, Told, View, in_order, view_of
from chaos.history import Doc, History, Violation
from schemas.job import HELD

NAME = "rising_terms"


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    yield from _told(view)
    for job_id, events in view.docs.events.items():
        last: Doc | None = None
        for event in events:
            if event["type"] == "claimed":
                if last is not None and event["leaseEpoch"] <= last["leaseEpoch"]:
                    what = (
                        f"{event['id']} grants term {event['leaseEpoch']} after {last['id']} did {last['leaseEpoch']}"
                    )
                    yield Violation(NAME, what, view.seen.shown(last, event))
                last = event
        job = view.docs.jobs.get(job_id)
        if job is not None:
            yield from _epochs(job, 0 if last is None else last["leaseEpoch"])


def _epochs(job: Doc, last: int) -> Iterator[Violation]:
    job_id, epoch, granted, stage = job["id"], job["leaseEpoch"], job["grantedEpoch"], job["stage"]
    if granted != last:
        yield Violation(NAME, f"{job_id} says that epoch {granted} was granted last; its events say {last}")
    elif stage in HELD and epoch != granted:
        yield Violation(NAME, f"{job_id} is {stage} at epoch {epoch}, granted was {granted}")
    elif stage == "queued" and epoch <= granted:
        yield Violation(NAME, f"{job_id} is queued at epoch {epoch}, which was granted already")


def _told(view: View) -> Iterator[Violation]:
    for (job_id, epoch), all_told in view.asks.told_of.items():
        if view.stored and (job_id, epoch) not in view.docs.terms:
            what = f"term {epoch} of {job_id} was granted, and no claimed event tells of it"
            yield Violation(NAME, what, all_told[0].ask.shown)
        first: dict[Session, Told] = {}
        for told in all_told:
            known = first.setdefault(told.ask.session, told)
            if known.request_id != told.request_id:
                what = f"term {epoch} of {job_id} was granted under {known.request_id} and under {told.request_id}"
                yield Violation(NAME, what, in_order(*known.ask.shown, *told.ask.shown))
