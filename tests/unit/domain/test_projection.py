"""A run is its term's events, folded: twice is once, older changes nothing, and any split gives the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.ops import Cause
from coordinator.domain.projection import folded, term_events
from coordinator.projector import derive
from coordinator.store.memory import MemoryStore
from coordinator.store.port import RUNS, Query
from schemas.job import Job
from schemas.outcome import Outcome
from schemas.projections import EventDoc, Insights, RunDoc
from tests.support.virtual import in_virtual_time
from tests.unit.domain.builders import (
    LATER,
    NOW,
    building,
    checkpoint,
    claim,
    new,
    reaps,
    release,
    report,
    reports,
    start,
    then,
    with_insights,
)

TWO_TERMS = then(then(new(review=0), claim, start, checkpoint, release), claim, start, report, now=LATER)
THREE_ENDS = {
    "report": then(building(review=0), reports(Outcome.OK, insights=with_insights(2.5, 7, 3))),
    "release": then(building(), release),
    "reap": then(building(), reaps(Cause.EXPIRED)),
    "no start": then(new(), claim, release),
}


def fold(events: list[EventDoc], run: RunDoc | None = None) -> RunDoc:
    for event in events:
        run = folded(run, event)
    assert run is not None
    return run


def events_of_term(job: Job, epoch: int = 1) -> list[EventDoc]:
    return term_events(job.outbox)[epoch]


def test_events_are_parted_by_term_in_order_without_those_that_tell_nothing_of_it() -> None:
    terms = term_events(TWO_TERMS.outbox)
    assert {epoch: [event.type for event in events] for epoch, events in terms.items()} == {
        1: ["claimed", "started", "released"],
        2: ["claimed", "started", "reported"],
    }


def test_each_term_has_its_own_run() -> None:
    first, second = (fold(events_of_term(TWO_TERMS, epoch)) for epoch in (1, 2))
    assert (first.id, first.outcome, first.granted_at, first.ended_at) == ("job:1", "released", NOW, NOW)
    assert (second.id, second.outcome, second.granted_at, second.ended_at) == ("job:2", "ok", LATER, LATER)


@pytest.mark.parametrize(("end", "outcome"), [("report", "ok"), ("release", "released"), ("reap", "lost")])
def test_a_run_says_how_its_term_went(end: str, outcome: str) -> None:
    run = fold(events_of_term(THREE_ENDS[end]))
    assert (run.factory_id, run.session_id, run.engine, run.lease_epoch) == ("f1", "s1", "shell", 1)
    assert (run.outcome, run.started_at, run.ended_at) == (outcome, NOW, NOW)
    assert run.insights == (with_insights(2.5, 7, 3) if end == "report" else Insights())
    assert run.choice is not None
    assert run.rev == THREE_ENDS[end].seq


def test_a_term_that_never_started_says_so() -> None:
    assert fold(events_of_term(THREE_ENDS["no start"])).started_at is None


@pytest.mark.parametrize("end", THREE_ENDS)
def test_folding_the_same_again_changes_nothing(end: str) -> None:
    events = events_of_term(THREE_ENDS[end])
    run = fold(events)
    assert fold(events, run) == run
    assert fold([event for event in events for _ in range(3)]) == run


@given(st.lists(st.integers(0, 2)), st.sampled_from(["report", "release", "reap"]))
def test_old_events_that_come_again_at_any_time_change_nothing(stutter: list[int], end: str) -> None:
    """After each event, any of those up to it may be told again, in any order."""
    events = events_of_term(THREE_ENDS[end])
    told = [events[0]]
    for number in range(1, len(events)):
        told += [events[n] for n in stutter if n < number]
        told.append(events[number])
    assert fold(told + [events[n] for n in stutter]) == fold(events)


@pytest.mark.parametrize("end", THREE_ENDS)
def test_no_event_is_folded_before_its_terms_claim(end: str) -> None:
    with pytest.raises(AssertionError, match="before the claim"):
        folded(None, events_of_term(THREE_ENDS[end])[-1])


@pytest.mark.parametrize("split", range(len(TWO_TERMS.outbox) + 1))
@in_virtual_time
async def test_projected_in_two_parts_and_some_of_it_twice_the_runs_are_the_same(split: int) -> None:
    store = MemoryStore()
    known, rest = TWO_TERMS.outbox[:split], TWO_TERMS.outbox[split:]
    for outbox in (known, known, rest, TWO_TERMS.outbox, known):
        await store.project(await derive(store, TWO_TERMS.model_copy(update={"outbox": outbox}), 60))
    rows = await store.query(Query(RUNS, TWO_TERMS.id, order="leaseEpoch"))
    assert [RunDoc.model_validate(row.doc) for row in rows] == [fold(events_of_term(TWO_TERMS, n)) for n in (1, 2)]
