"""Promise 11: no factory is given a job that it cannot do or is not enrolled for.

Decides from each grant told, by what the factory was enrolled for at some moment between its first ask and the answer,
by what its process said it can do, by what the claim itself named, and by where the job's checkpoint lies.
Silent about a factory whose enrolment was not recorded, and about a job whose document is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from chaos.checkers.view import Told, View, view_of
from chaos.history import Doc, History, Record, Violation

NAME = "capability"

NOTED_S = 5.0  # between an enrolment's commit and its record


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    for told in view.asks.told:
        job = view.docs.jobs.get(told.grant["jobId"])
        wrong = _wrong(view, told, job) if job is not None else None
        if wrong:
            what = f"{told.ask.session[0]} was granted {told.grant['jobId']}: {wrong}"
            yield Violation(NAME, what, told.ask.shown)


def _wrong(view: View, told: Told, job: Doc) -> str | None:
    factory, wanted = told.ask.session[0], set(job["capabilities"])
    versions = _enrolments(view, told)
    if versions and not any(_enrolled(one.data, job, wanted) for one in versions):
        return f"it is not enrolled for {job['productId']} and {sorted(wanted)}"
    life = view.lives.life_of(told.ask.session)
    said = life.up.data if life is not None else {}
    for name, needed in (("capabilities", wanted), ("engines", {job["engine"]})):
        for source in (said, told.ask.message):
            if source.get(name) is not None and not needed <= set(source[name]):
                return f"its {name} are {sorted(source[name])}, wanted are {sorted(needed)}"
    local = (told.grant.get("checkpoint") or {}).get("local")
    return f"the work so far lies on {local}" if local not in (None, factory) else None


def _enrolments(view: View, told: Told) -> list[Record]:
    """Those that were current at some moment between the first ask and the answer."""
    records = view.run.enrolments.get(told.ask.session[0], [])
    first = view.asks.first[told.ask.session, told.request_id].record.at
    ends = [*(record.at for record in records[1:]), inf]
    return (
        [
            record
            for record, over in zip(records, ends, strict=True)
            if record.at - NOTED_S <= told.at and first <= over + NOTED_S
        ]
        if records
        else []
    )


def _enrolled(data: Doc, job: Doc, wanted: set[str]) -> bool:
    return job["productId"] in data["products"] and wanted <= set(data["capabilities"])
