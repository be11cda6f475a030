"""Where each outcome leads, what is charged, when the next try is, and when a job has been lost too often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.decide import decide
from coordinator.domain.ops import Cause, Op, Rejected
from coordinator.domain.retry import retry_at
from coordinator.domain.table import Action
from schemas.job import Job, Stage
from schemas.outcome import CHARGED, Outcome, Result, VerifyEvidence
from schemas.work import Retries
from tests.unit.domain.builders import (
    LATER,
    NOW,
    building,
    cancel,
    checkpoint,
    claim,
    follow_up,
    in_testing,
    new,
    operate,
    preempt,
    reap,
    reaps,
    release,
    releases,
    report,
    reports,
    review,
    saved,
    start,
    then,
    with_insights,
    with_retries,
)

LEADS_TO = {
    Outcome.OK: Stage.TESTING,
    Outcome.DECOMPOSED: Stage.BLOCKED,
    Outcome.BUDGET: Stage.BLOCKED,
    Outcome.VERIFY_FAILED: Stage.FAILED,
    Outcome.ENGINE_FAILED: Stage.FAILED,
    Outcome.TIMEOUT: Stage.FAILED,
    Outcome.STALLED: Stage.FAILED,
    Outcome.QUOTA_EXHAUSTED: Stage.QUEUED,
    Outcome.RELEASED: Stage.QUEUED,
    Outcome.PREEMPTED: Stage.QUEUED,
    Outcome.LOST: Stage.QUEUED,
    Outcome.CANCELLED: Stage.FAILED,
    Outcome.UNRUNNABLE: Stage.FAILED,
    Outcome.MACHINE_FAILED: Stage.QUEUED,
    Outcome.UNPUBLISHED: Stage.BLOCKED,
}
LOSSES = [Cause.EXPIRED, Cause.SESSION_GONE, Cause.NOT_STARTED, Cause.MISSING]


@pytest.mark.parametrize("outcome", Outcome)
def test_each_outcome_leads_to_its_stage(outcome: Outcome) -> None:
    job = then(building(review=0), reports(outcome))
    assert job.stage is LEADS_TO[outcome]
    assert (job.holder, job.last_factory_id) == (None, "f1")
    assert job.result is not None
    assert job.result.outcome is outcome


@pytest.mark.parametrize("outcome", Outcome)
def test_only_four_outcomes_use_a_retry_and_set_the_time_of_the_next(outcome: Outcome) -> None:
    job = then(building(), reports(outcome))
    charged = outcome in {Outcome.VERIFY_FAILED, Outcome.ENGINE_FAILED, Outcome.TIMEOUT, Outcome.STALLED}
    assert job.retries.used == int(charged)
    assert (job.not_before is not None) == charged


def machine_fails(why: str, *, elsewhere: bool = True) -> Callable[[Job], Op]:
    result = Result(outcome=Outcome.MACHINE_FAILED, summary=why)
    return lambda job: replace(report(job, Outcome.MACHINE_FAILED), result=result, elsewhere=elsewhere)


def test_what_no_machine_can_do_is_final_and_costs_no_retry() -> None:
    job = then(building(), reports(Outcome.UNRUNNABLE))
    assert job.is_finished
    assert (job.retries.used, job.not_before) == (0, None)


def test_what_a_machine_could_not_do_goes_elsewhere_and_says_why() -> None:
    job = then(building(), machine_fails("no disk"))
    assert (job.stage, job.retries.used) == (Stage.QUEUED, 0)
    assert [(one.factory_id, one.reason) for one in job.avoid] == [("f1", "no disk")]
    again = then(job, claim, start, machine_fails("no disk, still"))
    assert [one.reason for one in again.avoid] == ["no disk, still"], "one entry a factory, its newest reason"


def test_what_no_machine_that_fits_could_do_fails_with_the_reason_of_each() -> None:
    job = then(building(), machine_fails("no disk", elsewhere=False))
    assert (job.stage, job.is_finished, job.retries.used) == (Stage.FAILED, True, 0)
    assert job.result is not None
    assert job.result.summary == "no factory that fits could run it:\nf1: no disk"


def test_verified_work_that_no_server_takes_waits_for_a_person_and_is_then_only_published() -> None:
    work = then(building(verify='"true"', review=0, ship="auto"), checkpoint)
    assert work.checkpoint is not None
    shown = (VerifyEvidence(command="true", rc=0),)
    unpublished = Result(outcome=Outcome.UNPUBLISHED, commit=work.checkpoint.commit, verify=shown)
    refused = decide(work, replace(report(work), result=unpublished.model_copy(update={"verify": ()})), NOW)
    assert isinstance(refused, Rejected), "what is not shown to be verified is not done"
    job = then(work, lambda it: replace(report(it), result=unpublished))
    assert (job.stage, job.retries.used, job.is_to_be_published) == (Stage.BLOCKED, 0, True)
    again = then(job, operate(Action.REQUEUE), claim)
    assert again.is_to_be_published
    published = Result(outcome=Outcome.OK, commit=work.checkpoint.commit, branch="fleet/x/2")
    shipped = then(again, lambda it: replace(report(it), result=published))
    assert shipped.stage is Stage.SHIPPED
    assert shipped.result is not None
    assert shipped.result.verify == shown, "the evidence of the term that verified it"
    other = replace(report(again), result=published.model_copy(update={"commit": "b" * 40}))
    assert isinstance(decide(again, other, NOW), Rejected), "another commit was never verified"


def test_a_person_who_tries_again_tries_everywhere() -> None:
    job = then(building(), machine_fails("no disk", elsewhere=False), operate(Action.REQUEUE))
    assert (job.stage, job.avoid) == (Stage.QUEUED, ())


def test_done_goes_to_review_where_one_is_wanted_and_its_approvals_begin_anew() -> None:
    approved = review(Action.APPROVE)
    twice = then(building(review=2), report, approved, review(Action.REQUEST_CHANGES, "op:bob"), claim, start, report)
    assert (twice.stage, twice.approvals) == (Stage.REVIEW, ())


def test_a_review_takes_as_many_different_people_as_are_wanted() -> None:
    once = then(building(review=2), report, review(Action.APPROVE))
    assert once.stage is Stage.REVIEW
    again = decide(once, review(Action.APPROVE)(once), NOW)
    assert isinstance(again, Rejected)
    assert again.reason == "conflict"
    assert then(once, review(Action.APPROVE, "op:bob")).stage is Stage.TESTING


@pytest.mark.parametrize(
    "shown",
    [(), (("true", 1),), (("false", 0),), (("true", 0), ("true", 1))],
    ids=["nothing", "a failure", "another command", "both"],
)
def test_an_ok_without_evidence_that_each_verify_command_passed_is_refused(shown: tuple[tuple[str, int], ...]) -> None:
    job = building(verify='"true"')
    claimed = Result(outcome=Outcome.OK, verify=tuple(VerifyEvidence(command=command, rc=rc) for command, rc in shown))
    refused = decide(job, report(job, result=claimed), NOW)
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.detail) == ("invalid_request", {"verify": ["true"]})
    assert then(job, lambda it: report(it, Outcome.VERIFY_FAILED)).stage is Stage.FAILED


def test_a_verified_job_without_review_is_shipped_at_once_and_leaves_both_events() -> None:
    job = then(building(verify='"true"'), report)
    assert job.stage is Stage.SHIPPED
    assert [(e.type, e.from_stage, e.to_stage) for e in job.outbox[-2:]] == [
        ("reported", "building", "testing"),
        ("shipped", "testing", "shipped"),
    ]
    assert [event.seq for event in job.outbox] == [1, 2, 3, 4, 5]


def test_the_last_approval_ships_at_once_where_the_manifest_says_auto() -> None:
    job = then(building(review=1, ship="auto"), report, review(Action.APPROVE))
    assert (job.stage, [event.type for event in job.outbox[-2:]]) == (Stage.SHIPPED, ["approved", "shipped"])


@pytest.mark.parametrize("outcome", Outcome)
def test_a_report_of_a_job_whose_start_never_arrived_tells_of_the_start_too(outcome: Outcome) -> None:
    job = then(new(review=0), claim, reports(outcome))
    assert [(e.type, e.from_stage, e.to_stage) for e in job.outbox[2:]] == [
        ("started", "assigned", "building"),
        ("reported", "building", str(LEADS_TO[outcome])),
    ]
    assert job.outbox[2].op_id == "job:1:start"


def test_a_release_before_the_start_tells_of_no_start() -> None:
    assert [event.type for event in then(new(), claim, release).outbox] == ["submitted", "claimed", "released"]


@pytest.mark.parametrize("outcome", [one for one in Outcome if one is not Outcome.OK])
def test_told_to_cancel_every_outcome_but_ok_is_failed_cancelled_and_uncharged(outcome: Outcome) -> None:
    job = then(building(), cancel, reports(outcome))
    assert (job.stage, job.not_before, job.retries.used) == (Stage.FAILED, None, 0)
    assert (job.lease_epoch, job.granted_epoch) == (2, 1)
    assert job.result is not None
    assert job.result.outcome is Outcome.CANCELLED


@pytest.mark.parametrize("cause", Cause)
def test_told_to_cancel_every_end_by_the_coordinator_is_failed_cancelled(cause: Cause) -> None:
    job = then(building(), cancel, reaps(cause))
    assert (job.stage, job.not_before, job.lost_in_a_row) == (Stage.FAILED, None, 0)


def test_a_preempted_holders_end_by_the_deadline_is_queued_and_not_a_loss() -> None:
    job = then(building(), preempt, reaps(Cause.STOP_DEADLINE))
    assert (job.stage, job.lost_in_a_row, job.retries.used) == (Stage.QUEUED, 0, 0)
    assert job.result is not None
    assert job.result.outcome is Outcome.PREEMPTED


def test_nobody_is_ended_by_a_deadline_that_was_not_set() -> None:
    job = building()
    refused = decide(job, reap(job, Cause.STOP_DEADLINE), NOW)
    assert isinstance(refused, Rejected)
    assert refused.reason == "illegal_transition"


def test_waiting_grows_twofold_from_thirty_seconds() -> None:
    job = with_retries(3)
    waits = []
    for _ in range(3):
        job = then(job, reports(Outcome.TIMEOUT))
        assert job.not_before is not None
        waits.append((job.not_before - NOW).total_seconds())
        job = then(then(job, follow_up(Action.RETRY), now=LATER), claim, start)
    assert waits == [30, 60, 120]


@given(st.integers(0, 6), st.floats(0, 1, exclude_max=True))
def test_jitter_only_ever_adds_and_at_most_a_fifth(used: int, jitter: float) -> None:
    due = retry_at(Retries(max=10, used=used), Outcome.STALLED, NOW, jitter)
    assert due is not None
    plain_s = min(30 * 2**used, 3600)
    assert plain_s <= (due - NOW).total_seconds() <= plain_s * 1.2


def test_the_first_wait_is_at_least_the_backoff_that_the_manifest_asks_for() -> None:
    due = retry_at(Retries(max=2, backoff_s=7200), Outcome.TIMEOUT, NOW, 0.0)
    assert due is not None
    assert due - NOW >= timedelta(hours=2)


@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_a_job_with_n_retries_has_n_terms_more_and_then_no_next_try(most: int) -> None:
    job = with_retries(most)
    for _ in range(most):
        job = then(job, reports(Outcome.VERIFY_FAILED))
        job = then(then(job, follow_up(Action.RETRY), now=LATER), claim, start)
    job = then(job, reports(Outcome.VERIFY_FAILED))
    assert (job.stage, job.not_before, job.attempt) == (Stage.FAILED, None, most + 1)
    assert then(job, follow_up(Action.BURY)).stage is Stage.DEAD_LETTER


def test_a_retry_is_refused_before_its_time() -> None:
    job = then(building(), reports(Outcome.TIMEOUT))
    assert job.not_before is not None
    early = decide(job, follow_up(Action.RETRY)(job), job.not_before - timedelta(microseconds=1))
    assert isinstance(early, Rejected)
    assert then(job, follow_up(Action.RETRY), now=job.not_before).stage is Stage.QUEUED


def test_what_a_person_cancelled_or_rejected_is_never_buried_or_retried() -> None:
    for job in (then(new(), cancel), then(in_testing(), operate(Action.REJECT))):
        for action in (Action.BURY, Action.RETRY):
            assert isinstance(decide(job, follow_up(action)(job), LATER), Rejected)


def test_a_cancel_of_what_waits_for_its_retry_ends_the_waiting() -> None:
    job = then(building(), reports(Outcome.TIMEOUT), cancel)
    assert (job.stage, job.not_before, job.lease_epoch, job.granted_epoch) == (Stage.FAILED, None, 2, 1)


def test_a_requeue_by_a_person_gives_all_tries_back_and_keeps_age_and_checkpoint() -> None:
    spent = then(with_retries(0), checkpoint, reports(Outcome.TIMEOUT), follow_up(Action.BURY))
    job = then(spent, operate(Action.REQUEUE), now=LATER)
    assert (job.retries.used, job.not_before) == (0, None)
    assert (job.checkpoint, job.waiting_since) == (spent.checkpoint, spent.waiting_since)
    assert then(_lost(building(), Cause.EXPIRED, 5), operate(Action.REQUEUE)).lost_in_a_row == 0


def _lost(job: Job, cause: Cause, times: int) -> Job:
    for _ in range(times):
        job = then(job, *([claim, start] if job.stage is Stage.QUEUED else []), reaps(cause))
    return job


@pytest.mark.parametrize("cause", LOSSES)
def test_five_terms_lost_in_a_row_are_a_crash_loop(cause: Cause) -> None:
    four = _lost(building(), cause, 4)
    assert (four.stage, four.lost_in_a_row) == (Stage.QUEUED, 4)
    five = _lost(four, cause, 1)
    assert (five.stage, five.holder, five.retries.used) == (Stage.DEAD_LETTER, None, 0)
    assert (five.lease_epoch, five.granted_epoch) == (5, 5)
    assert five.result is not None
    assert "crash_loop" in str(five.result.summary)
    assert five.outbox[-1].to_stage == "dead_letter"


def test_a_new_checkpoint_ends_the_row_of_losses() -> None:
    job = then(_lost(building(), Cause.EXPIRED, 4), claim, start, checkpoint)
    assert job.lost_in_a_row == 0
    assert _lost(job, Cause.EXPIRED, 4).stage is Stage.QUEUED
    assert _lost(job, Cause.EXPIRED, 5).stage is Stage.DEAD_LETTER


@pytest.mark.parametrize("outcome", [Outcome.RELEASED, Outcome.QUOTA_EXHAUSTED, Outcome.TIMEOUT, Outcome.OK])
def test_a_holder_that_speaks_at_the_end_ends_the_row_of_losses(outcome: Outcome) -> None:
    job = then(_lost(building(), Cause.EXPIRED, 4), claim, start, reports(outcome))
    assert job.lost_in_a_row == 0


@pytest.mark.parametrize("cause", [Cause.MISSING, Cause.NOT_STARTED])
def test_a_grant_under_which_nothing_was_started_is_no_loss(cause: Cause) -> None:
    job = new()
    for _ in range(7):
        job = then(job, claim, reaps(cause))
    assert (job.stage, job.lost_in_a_row, job.attempt) == (Stage.QUEUED, 0, 7)


def test_a_checkpoint_survives_every_way_back_to_the_queue() -> None:
    kept = then(building(), checkpoint)
    for way in (release, reaps(Cause.EXPIRED), reports(Outcome.QUOTA_EXHAUSTED), reports(Outcome.BUDGET)):
        assert then(kept, way).checkpoint == kept.checkpoint


def numbers(number: int) -> Callable[[Job], Op]:
    return lambda job: checkpoint(job, number=number)


def test_within_a_term_checkpoint_numbers_only_rise() -> None:
    job = then(building(), numbers(3))
    for number in (1, 3):
        refused = decide(job, checkpoint(job, number=number), NOW)
        assert isinstance(refused, Rejected)
        assert refused.reason == "conflict"
    assert then(job, numbers(4)).checkpoint == saved(4, lease_epoch=1)


def test_a_new_term_counts_its_checkpoints_from_one() -> None:
    job = then(building(), numbers(3), release, claim, numbers(1))
    assert job.checkpoint == saved(1, lease_epoch=2)


@pytest.mark.parametrize("end", [reports(Outcome.BUDGET, checkpoint=saved(9)), releases(checkpoint=saved(9))])
def test_the_checkpoint_of_an_end_is_the_holders_last_word(end: Callable[[Job], Op]) -> None:
    assert then(building(), numbers(3), end).checkpoint == saved(9, lease_epoch=1)


def test_work_that_lies_on_one_machine_alone_is_granted_to_none_but_that_one() -> None:
    job = then(building(), reports(Outcome.RELEASED, checkpoint=saved(local="f1")))
    refused = decide(job, claim(job, "f2"), NOW)
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.detail) == ("conflict", {"local": "f1"})
    assert then(job, claim).stage is Stage.ASSIGNED


def test_spend_adds_up_over_the_terms() -> None:
    job = then(building(), reports(Outcome.RELEASED, insights=with_insights(1.5, 10, 5)), claim, start)
    job = then(job, reports(Outcome.OK, insights=with_insights(0.25, 1, 2)))
    assert (job.spend.usd, job.spend.tokens) == (1.75, 18)


def test_attempt_counts_terms_and_the_result_is_the_latest_terms() -> None:
    job = then(building(), release, claim)
    assert (job.attempt, job.result) == (2, None)


def test_charged_outcomes_are_the_four_of_the_spec() -> None:
    assert {str(one) for one in CHARGED} == {"verify_failed", "engine_failed", "timeout", "stalled"}


def test_age_survives_the_ways_back_but_not_the_time_spent_blocked() -> None:
    for way in (release, reaps(Cause.EXPIRED), reports(Outcome.QUOTA_EXHAUSTED)):
        assert then(building(), way, now=LATER).waiting_since == NOW
    freed = then(new(deps=(new("dep"),)), follow_up(Action.UNBLOCK), now=LATER)
    assert freed.waiting_since == LATER


def test_the_reports_actor_and_session_are_in_its_event() -> None:
    event = then(building(), report).outbox[3]
    assert (event.actor, event.data["sessionId"], event.op_id) == ("factory:f1", "s1", "job:1:end")
