"""Every (situation, action, actor) is asked; what the table below allows is allowed, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.decide import decide
from coordinator.domain.ops import Rejected
from coordinator.domain.table import Action, Actor
from schemas.job import HELD, Job, Stage
from schemas.outcome import Outcome, Result
from tests.unit.domain.builders import (
    ASK,
    LATER,
    NOW,
    asked,
    building,
    cancel,
    claim,
    new,
    preempt,
    release,
    report,
    situations,
    start,
    then,
)

# situation | action | who may | target. Holder: of the very term. Reports say `ok`, of a job that asks for no review.
ALLOWED = """
queued                    | claim           | holder               | assigned
queued                    | cancel          | operator coordinator | failed
blocked on deps           | unblock         | coordinator          | queued
blocked on deps           | explain_block   | coordinator          | blocked
blocked on deps           | cancel          | operator coordinator | failed
blocked on budget         | unblock         | coordinator          | queued
blocked on budget         | explain_block   | coordinator          | blocked
blocked on budget         | requeue         | operator             | queued
blocked on budget         | cancel          | operator coordinator | failed
blocked on children       | unblock         | coordinator          | queued
blocked on children       | explain_block   | coordinator          | blocked
blocked on children       | requeue         | operator             | queued
blocked on children       | cancel          | operator coordinator | failed
assigned                  | start           | holder               | building
assigned                  | checkpoint      | holder               | assigned
assigned                  | report          | holder               | testing
assigned                  | release         | holder               | queued
assigned                  | reap            | coordinator          | queued
assigned                  | cancel          | operator coordinator | assigned
assigned                  | preempt         | operator coordinator | assigned
building                  | checkpoint      | holder               | building
building                  | report          | holder               | testing
building                  | release         | holder               | queued
building                  | reap            | coordinator          | queued
building                  | cancel          | operator coordinator | building
building                  | preempt         | operator coordinator | building
building, told to cancel  | checkpoint      | holder               | building
building, told to cancel  | report          | holder               | testing
building, told to cancel  | release         | holder               | failed
building, told to cancel  | reap            | coordinator          | failed
building, told to preempt | checkpoint      | holder               | building
building, told to preempt | report          | holder               | testing
building, told to preempt | release         | holder               | queued
building, told to preempt | reap            | coordinator          | queued
building, told to preempt | cancel          | operator coordinator | building
review                    | approve         | operator             | testing
review                    | request_changes | operator             | queued
review                    | reject          | operator             | failed
review                    | cancel          | operator coordinator | failed
testing                   | ship            | operator             | shipped
testing                   | reject          | operator             | failed
testing                   | requeue         | operator             | queued
testing                   | cancel          | operator coordinator | failed
failed, to be retried     | requeue         | operator             | queued
failed, to be retried     | retry           | coordinator          | queued
failed, to be retried     | cancel          | operator coordinator | failed
failed for good           | requeue         | operator             | queued
failed, retries used up   | requeue         | operator             | queued
failed, retries used up   | bury            | coordinator          | dead_letter
dead_letter               | requeue         | operator             | queued
"""

SITUATIONS = situations()
ENDS_A_TERM = {"report", "release", "reap"}
STOPS = {"cancel", "preempt"}


class Allowed(NamedTuple):
    actors: frozenset[str]
    target: str


def _expected() -> dict[tuple[str, str], Allowed]:
    rows = [[cell.strip() for cell in line.split("|")] for line in ALLOWED.strip().splitlines()]
    return {(situation, action): Allowed(frozenset(who.split()), target) for situation, action, who, target in rows}


EXPECTED = _expected()
TRIPLES = [(s, a, w) for s in SITUATIONS for a in Action for w in Actor]
LEGAL = [(s, a, w) for s, a, w in TRIPLES if (s, str(a)) in EXPECTED and str(w) in EXPECTED[s, str(a)].actors]
ILLEGAL = [triple for triple in TRIPLES if triple not in LEGAL]


def _name(value: object) -> str:
    return str(value).replace(" ", "_").replace(",", "")


def test_every_stage_has_a_situation_and_every_action_an_asker() -> None:
    assert {job.stage for job in SITUATIONS.values()} == set(Stage)
    assert set(ASK) == set(Action)
    assert {s for s, _ in EXPECTED} == set(SITUATIONS) - {"shipped"}


@pytest.mark.parametrize(("situation", "action", "actor"), LEGAL, ids=_name)
def test_what_the_spec_allows_leads_where_it_says(situation: str, action: Action, actor: Actor) -> None:
    before = SITUATIONS[situation]
    after = decide(before, asked(before, action, actor), LATER)
    assert isinstance(after, Job), after
    assert str(after.stage) == EXPECTED[situation, str(action)].target
    assert after.held == (after.stage in HELD)
    assert after.updated_at == LATER
    assert after.stage_since == (before.stage_since if after.stage is before.stage else LATER)


@pytest.mark.parametrize(("situation", "action", "actor"), ILLEGAL, ids=_name)
def test_whatever_else_is_asked_is_refused_and_changes_nothing(situation: str, action: Action, actor: Actor) -> None:
    job = SITUATIONS[situation]
    before = job.to_doc()
    refused = decide(job, asked(job, action, actor), LATER)
    assert isinstance(refused, Rejected), refused
    assert refused.reason in ("illegal_transition", "fenced", "conflict")
    assert refused.message
    assert job.to_doc() == before


@pytest.mark.parametrize(("situation", "action", "actor"), LEGAL, ids=_name)
def test_the_term_ends_with_a_report_a_release_or_a_reap_and_with_nothing_else(
    situation: str, action: Action, actor: Actor
) -> None:
    before = SITUATIONS[situation]
    after = decide(before, asked(before, action, actor), LATER)
    assert isinstance(after, Job)
    if action in ENDS_A_TERM:
        assert before.holder is not None
        assert (after.holder, after.stop, after.last_factory_id) == (None, None, before.holder.factory_id)
    elif before.held:
        assert after.holder == before.holder


@pytest.mark.parametrize(("situation", "action", "actor"), LEGAL, ids=_name)
def test_the_epoch_moves_when_and_only_when_the_spec_says(situation: str, action: Action, actor: Actor) -> None:
    before = SITUATIONS[situation]
    after = decide(before, asked(before, action, actor), LATER)
    assert isinstance(after, Job)
    epochs = (before.lease_epoch, before.granted_epoch)
    moved_back = after.stage in (Stage.QUEUED, Stage.BLOCKED) and after.stage is not before.stage
    cancelled = after.stage is Stage.FAILED and (
        action is Action.CANCEL or (action in ENDS_A_TERM and "told to cancel" in situation)
    )
    if action is Action.CLAIM:
        epochs = (before.lease_epoch, before.lease_epoch)
    elif moved_back or cancelled:
        epochs = (before.granted_epoch + 1, before.granted_epoch)
    assert (after.lease_epoch, after.granted_epoch) == epochs
    if after.stage is Stage.QUEUED:
        assert after.lease_epoch > after.granted_epoch


@pytest.mark.parametrize(("situation", "action", "actor"), LEGAL, ids=_name)
def test_each_transition_leaves_its_own_event_under_its_op_id(situation: str, action: Action, actor: Actor) -> None:
    before = SITUATIONS[situation]
    op = asked(before, action, actor)
    after = decide(before, op, LATER)
    assert isinstance(after, Job)
    added = after.outbox[len(before.outbox) :]
    assert after.outbox[: len(before.outbox)] == before.outbox
    assert [event.op_id for event in added].count(op.id) == 1
    assert [event.seq for event in added] == list(range(before.seq + 1, after.seq + 1))
    assert (added[0].from_stage, added[-1].to_stage) == (before.stage, after.stage)
    assert {event.lease_epoch for event in added} == {before.lease_epoch}
    assert {event.id for event in added} == {f"{after.id}:{event.seq}" for event in added}


def test_a_claim_requires_an_epoch_above_the_granted_one() -> None:
    used_up = new().model_copy(update={"granted_epoch": 1})
    with pytest.raises(AssertionError):
        decide(used_up, claim(used_up), NOW)


WRONG = [{"factory_id": "f2"}, {"session_id": "s2"}, {"lease_epoch": 1}, {"lease_epoch": 3}]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
@pytest.mark.parametrize("action", [Action.START, Action.CHECKPOINT, Action.REPORT, Action.RELEASE])
@pytest.mark.parametrize("situation", ["assigned", "building", "told to cancel"])
def test_one_wrong_of_factory_session_and_epoch_is_fenced(
    situation: str, action: Action, wrong: dict[str, object]
) -> None:
    job = then(building(), release, claim)  # its second term, so that there is an older one to be wrong about
    job = then(job, *{"assigned": [], "building": [start], "told to cancel": [start, cancel]}[situation])
    assert job.lease_epoch == 2
    refused = decide(job, replace(ASK[action](job), **wrong), NOW)  # type: ignore[arg-type]
    assert isinstance(refused, Rejected)
    assert refused.reason == "fenced"
    assert refused.detail["leaseEpoch"] == 2


@pytest.mark.parametrize("situation", [name for name, job in SITUATIONS.items() if not job.held])
def test_nobodys_report_counts_for_a_job_that_is_not_held(situation: str) -> None:
    job = SITUATIONS[situation]
    refused = decide(job, report(job), NOW)
    assert isinstance(refused, Rejected)
    assert refused.reason == "fenced"


def test_a_reap_of_a_term_that_has_ended_is_refused() -> None:
    job = then(building(), release, claim)
    refused = decide(job, replace(ASK[Action.REAP](job), lease_epoch=1), NOW)
    assert isinstance(refused, Rejected)
    assert refused.reason == "fenced"


def test_a_preempt_names_the_running_term() -> None:
    job = then(building(), release, claim, start)
    refused = decide(job, replace(preempt(job), lease_epoch=1), NOW)
    assert isinstance(refused, Rejected)
    assert refused.reason == "fenced"


def test_cancel_overrides_preempt_and_never_the_reverse() -> None:
    both = then(building(), preempt, cancel)
    assert both.stop is not None
    assert both.stop.kind == "cancel"
    assert isinstance(decide(both, preempt(both), NOW), Rejected)


def test_a_coordinators_own_step_counts_only_for_the_job_as_it_saw_it() -> None:
    job = SITUATIONS["failed, to be retried"]
    stale = replace(ASK[Action.RETRY](job), seq=job.seq - 1)  # type: ignore[call-arg]
    refused = decide(job, stale, LATER)
    assert isinstance(refused, Rejected)
    assert refused.reason == "conflict"


@given(st.data())
def test_in_every_course_of_life_the_job_stays_whole(data: st.DataObject) -> None:
    """Whatever is asked in whatever order: the history has no gap, terms only rise, a field belongs to its stage."""
    job = new(review=data.draw(st.sampled_from([0, 1, 2])), verify='"true"', deps=(new("dep"),))
    granted: list[int] = []
    for _ in range(data.draw(st.integers(1, 40))):
        op = ASK[data.draw(st.sampled_from(list(Action)))](job)
        if op.action is Action.REPORT:
            op = replace(op, result=Result(outcome=data.draw(st.sampled_from(list(Outcome)))))  # type: ignore[call-arg]
        decided = decide(job, op, LATER)
        if isinstance(decided, Rejected):
            continue
        before, job = job, decided
        if op.action is Action.CLAIM:
            granted.append(job.granted_epoch)
        assert job.lease_epoch >= before.lease_epoch
        assert job.attempt == len(granted)
        assert job.held == (job.stage in HELD)
        assert job.held or job.stop is None
        assert (job.blocked_reason is not None) == (job.stage is Stage.BLOCKED)
        assert job.not_before is None or job.stage is Stage.FAILED
    assert granted == sorted(set(granted))
    assert [event.seq for event in job.outbox] == list(range(1, job.seq + 1))
    assert len({event.op_id for event in job.outbox}) == len(job.outbox) == job.pending_events
    stages = [event.to_stage for event in job.outbox]
    assert [event.from_stage for event in job.outbox[1:]] == stages[:-1]
    assert Job.model_validate(job.to_doc()) == job
