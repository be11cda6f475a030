"""Promise 4: a submit that was answered is in the store, and its job ends or stays visible with its reason.

Decides from answered submits and the documents at the end. Where the run converged, no job is held, no job is blocked
without a reason, none waits for deps that have long been shipped, and none that ships by itself waits to be shipped.
Where time was up before, the jobs that were still on their way are named.
Silent about a job that is queued: whether it could run is promise 13's to say. Silent where nothing was stored.
"""

from __future__ import annotations

from collections.abc import Iterator

from chaos.checkers.view import View, view_of
from chaos.history import Doc, History, Violation
from schemas.job import HELD

NAME = "nothing_lost"

NOTICED_S = 30.0  # in which a job whose deps were shipped is queued, with room to spare


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    if not view.stored:
        return
    for ask in view.asks.of["submit"]:
        answer = ask.answer
        if answer is not None and answer["jobId"] not in view.docs.jobs:
            yield Violation(NAME, f"{answer['jobId']} was acknowledged and is not in the store", ask.shown)
    if view.run.converged is not None:
        for job in view.docs.jobs.values():
            wrong = _left_behind(view, job)
            if wrong:
                yield Violation(NAME, f"{job['id']} is {job['stage']} at the end: {wrong}", (view.run.converged,))
    elif view.run.gave_up is not None:
        left = sorted(f"{job['id']} ({job['stage']})" for job in view.docs.jobs.values() if not _settled(job))
        why = view.run.gave_up.data.get("why")
        yield Violation(
            NAME, f"the run did not come to its end: {why}; left are {', '.join(left)}", (view.run.gave_up,)
        )


def _settled(job: Doc) -> bool:
    waits_for_retry = job["stage"] == "failed" and job.get("notBefore") is not None
    return job["stage"] in ("shipped", "dead_letter", "review", "testing") or (
        job["stage"] == "failed" and not waits_for_retry
    )


def _left_behind(view: View, job: Doc) -> str | None:
    stage = job["stage"]
    if stage in HELD:
        return f"held by {(job.get('holder') or {}).get('factoryId')}"
    if job.get("holder") is not None:
        return f"yet {job['holder'].get('factoryId')} holds it"
    if stage == "testing" and job.get("ship") == "auto":
        return "it ships by itself, so it waits for nobody"
    if stage == "blocked":
        reason = job.get("blockedReason")
        if not reason or not reason.get("text"):
            return "it does not say why"
        if reason["kind"] == "deps" and _deps_long_shipped(view, job):
            return "its deps have been shipped"
    return None


def _deps_long_shipped(view: View, job: Doc) -> bool:
    """Seen to be, long before the end."""
    shipped = [_shipped_at(view, dep) for dep in job.get("deps") or ()]
    enough = any if job.get("depsMode") == "any" else all
    return enough(at is not None and at + NOTICED_S < view.over_at for at in shipped)


def _shipped_at(view: View, job_id: str) -> float | None:
    seen = view.seen.event(
        next((event for event in view.docs.events.get(job_id, ()) if event["type"] == "shipped"), None)
    )
    return seen[1].at if seen is not None else None
