"""Times and costs, read out of histories made by hand in which they are known."""

from __future__ import annotations

from typing import Any

import pytest

from chaos.history import History
from chaos.live.measures import (
    BROKER_BACK,
    BROKER_TO_REST,
    COORDINATOR_TO_CLAIM,
    CUT_OFF_TO_START,
    FROZEN_TO_REST,
    KILLED_TO_START,
    KILLED_TO_START_REST,
    STOPPED_TO_START,
    Cost,
    measured,
)
from tests.unit.chaos.builder import PRODUCT, Told


def seconds(told: Told, what: str) -> list[float]:
    """The samples, in order of size; there are two of them at most."""
    for spread in measured(told.history).recoveries:
        if spread.what == what:
            assert spread.samples <= 2
            return [round(2 * spread.p50 - spread.max, 6), spread.max] if spread.samples > 1 else [spread.max]
    return []


def all_seconds(told: Told) -> dict[str, list[float]]:
    return {spread.what: seconds(told, spread.what) for spread in measured(told.history).recoveries}


def fleet(*factories: str) -> tuple[Told, str]:
    told = Told()
    for name in factories or ("f1", "f2", "f3"):
        told.up(name)
    return told, told.at(1).submit()


def gone(told: Told, factory: str, kind: str = "down", life: int = 1, how: str = "killed") -> None:
    if kind == "down":
        told.note("down", f"factory:{factory}", life=life, how=how)
    else:
        told.note(kind, f"factory:{factory}", life=life)


def outage(told: Told, does: str) -> None:
    told.fault(does, "bus-outage", "bus")


def beats(told: Told, factory: str, over: str) -> None:
    who = f"factory:{factory}"
    told.answered(told.asked("heartbeat", {"factoryId": factory}, who, over), who, terms=[])


def lived_outage(told: Told, does: str) -> None:
    """One that some other factory lives through and comes back from, as in every run."""
    outage(told, does)
    beats(told.at(told.now + 0.125), "other", "rest" if does == "begins" else "bus")


# -- a holder is gone --


@pytest.mark.parametrize(
    ("kind", "how", "expected"),
    [
        ("down", "killed", {KILLED_TO_START: [12.5]}),
        ("paused", "", {STOPPED_TO_START: [12.5]}),
        ("down", "drained", {}),
        ("down", "ended", {}),
    ],
)
def test_from_a_holders_end_to_the_next_start(kind: str, how: str, expected: dict[str, list[float]]) -> None:
    told, job = fleet()
    told.at(2).engine("begins", "f1", job)
    gone(told.at(20), "f1", kind, how=how)
    told.at(32.5).engine("begins", "f2", job, 2)
    assert all_seconds(told) == expected


def test_a_job_that_never_starts_again_gives_no_time() -> None:
    told, job = fleet()
    told.at(2).engine("begins", "f1", job)
    gone(told.at(20), "f1")
    told.at(90).converged()
    assert all_seconds(told) == {}


def test_where_the_successor_is_killed_too_each_kill_counts_to_its_own_next_start() -> None:
    told, job = fleet()
    told.at(2).engine("begins", "f1", job)
    gone(told.at(20), "f1")
    told.at(30).engine("begins", "f2", job, 2)
    gone(told.at(32), "f2")
    told.at(57).engine("begins", "f3", job, 3)
    assert seconds(told, KILLED_TO_START) == [10.0, 25.0]


def test_a_holder_that_comes_back_as_its_own_successor_is_told_from_its_next_life() -> None:
    told, job = fleet("f1")
    told.at(2).engine("begins", "f1", job)
    gone(told.at(20), "f1")
    told.at(21).up("f1", "s2", life=2)
    told.at(26).engine("begins", "f1", job, 2, session="s2", life=2)
    gone(told.at(30), "f1", life=2)
    told.at(31).up("f1", "s3", life=3)
    told.at(39).engine("begins", "f1", job, 3, session="s3", life=3)
    assert seconds(told, KILLED_TO_START) == [6.0, 9.0]


def test_two_jobs_of_one_holder_are_two_times() -> None:
    told, one = fleet()
    two = told.submit("k2")
    for job in (one, two):
        told.at(told.now + 1).engine("begins", "f1", job)
    gone(told.at(20), "f1")
    told.at(28).engine("begins", "f2", two, 2)
    told.at(31).engine("begins", "f3", one, 2)
    assert seconds(told, KILLED_TO_START) == [8.0, 11.0]


def test_a_holder_that_was_stopped_and_then_killed_was_gone_when_it_was_stopped() -> None:
    told, job = fleet()
    told.at(2).engine("begins", "f1", job)
    gone(told.at(10), "f1", "paused")
    gone(told.at(15), "f1")
    told.at(30).engine("begins", "f2", job, 2)
    assert all_seconds(told) == {STOPPED_TO_START: [20.0]}


def test_the_end_of_who_did_not_hold_the_job_counts_for_nothing() -> None:
    told, job = fleet()
    told.at(2).engine("begins", "f1", job)
    gone(told.at(10), "f3")
    gone(told.at(11), "f2", "paused")
    gone(told.at(12), "f1", life=7)  # another process of that name
    told.at(30).engine("begins", "f2", job, 2)
    assert all_seconds(told) == {}


def test_from_a_holders_being_cut_off_to_the_next_start() -> None:
    told, job = fleet()
    told.at(2).engine("begins", "f1", job)
    told.fault("once", "rest-cut", "factory:f1")
    told.at(5).fault("begins", "bus-cut", "factory:f1")
    told.at(6).fault("begins", "cut-off", "factory:f2")
    told.at(7).fault("begins", "cut-off", "factory:f1")
    told.at(20).engine("begins", "f2", job, 2)
    told.at(25).fault("ends", "cut-off", "factory:f1")
    assert all_seconds(told) == {CUT_OFF_TO_START: [13.0]}


def test_a_job_with_a_lock_is_left_out_as_it_may_wait_for_another() -> None:
    told, _ = fleet()
    job = told.submit("locks", lock="repo")
    told.at(2).engine("begins", "f1", job)
    gone(told.at(20), "f1")
    told.at(90).engine("begins", "f2", job, 2)
    assert all_seconds(told) == {}


def test_a_start_long_after_an_end_that_belongs_to_an_earlier_term_counts_for_nothing() -> None:
    told, job = fleet()
    gone(told.at(1), "f1", "paused")
    told.note("resumed", "factory:f1", life=1)
    told.at(2).engine("begins", "f1", job)
    told.at(30).engine("begins", "f2", job, 2)
    assert all_seconds(told) == {}


def test_a_term_in_between_that_came_to_no_engine_is_part_of_the_wait() -> None:
    told, job = fleet()
    told.at(2).engine("begins", "f1", job)
    gone(told.at(20), "f1")
    told.at(50).engine("begins", "f3", job, 3)
    assert all_seconds(told) == {KILLED_TO_START: [30.0]}


def test_kills_while_the_broker_is_away_are_counted_apart() -> None:
    told, with_broker = fleet()
    without, after = told.submit("k2"), told.submit("k3")
    for job, factory in ((with_broker, "f1"), (without, "f2"), (after, "f3")):
        told.at(told.now + 1).engine("begins", factory, job)
    gone(told.at(10), "f1")
    lived_outage(told.at(11), "begins")
    gone(told.at(12), "f2")
    told.at(13).engine("begins", "f3", with_broker, 2)
    lived_outage(told.at(20), "ends")
    gone(told.at(21), "f3")
    told.at(28).engine("begins", "f1", without, 2)
    told.at(29).engine("begins", "f1", after, 2)
    assert seconds(told, KILLED_TO_START) == [3.0, 8.0]
    assert seconds(told, KILLED_TO_START_REST) == [16.0]


# -- the broker is gone, and comes back --


def claims(told: Told, factory: str, over: str, took_s: float = 0.5, job: str | None = None, **more: Any) -> None:
    """Asked now and answered later, with a grant where a job is named."""
    ask = told.claim_asked(factory, over=over, **more)
    told.at(told.now + took_s)
    told.answered(ask, f"factory:{factory}", grants=[] if job is None else [told.grant(job)])


def test_from_the_brokers_end_to_the_first_grant_over_rest() -> None:
    told, job = fleet()
    early = told.at(9).claim_asked("f3")
    lived_outage(told.at(10), "begins")
    told.at(11).answered(early, "factory:f3", grants=[told.grant(job)])  # asked before
    claims(told.at(12), "f1", "rest")  # in vain
    claims(told.at(13), "f1", "bus", job=job)  # of a broker that is not quite gone
    message = {"factoryId": "r1", "requestId": "r1", "max": 1}
    ask = told.at(14).asked("claim", message, "factory:r1")  # of one that only ever uses REST
    told.answered(ask, "factory:r1", grants=[told.grant(job)])
    claims(told.at(16), "f2", "rest", job=job)
    claims(told.at(18), "f2", "rest", job=job)
    lived_outage(told.at(20), "ends")
    assert seconds(told, BROKER_TO_REST) == [6.5]


def test_a_frozen_broker_is_told_from_a_killed_one() -> None:
    told, job = fleet()
    told.at(10).note("fault", "world", name="bus-outage", does="begins", on="bus", signal="SIGSTOP")
    beats(told, "other", "rest")
    claims(told.at(12), "f1", "rest", job=job)
    lived_outage(told.at(20), "ends")
    assert seconds(told, FROZEN_TO_REST) == [2.5]
    assert seconds(told, BROKER_TO_REST) == []


def test_a_grant_after_the_broker_is_back_is_none_over_rest_without_it() -> None:
    told, job = fleet()
    lived_outage(told.at(10), "begins")
    lived_outage(told.at(20), "ends")
    claims(told.at(21), "f1", "rest", job=job)
    assert seconds(told, BROKER_TO_REST) == []


def test_each_outage_has_its_own_first_grant() -> None:
    told, job = fleet()
    for at_s, waited_s in ((10, 1.5), (40, 3.5)):
        lived_outage(told.at(at_s), "begins")
        claims(told.at(at_s + waited_s - 0.5), "f1", "rest", job=job)
        lived_outage(told.at(at_s + 10), "ends")
    assert seconds(told, BROKER_TO_REST) == [1.5, 3.5]


def test_from_the_brokers_return_to_each_factorys_first_answer_on_the_bus() -> None:
    told, _ = fleet("f1", "f2", "f3", "f4")
    outage(told.at(10), "begins")
    for factory in ("f1", "f2", "f4"):
        claims(told.at(told.now + 1), factory, "rest")
    unsure = told.at(19).claim_asked("f1", over="bus")
    outage(told.at(20), "ends")
    told.at(20.25).answered(unsure, "factory:f1", grants=[])  # asked before
    claims(told.at(21), "f1", "bus")
    claims(told.at(22), "f3", "bus")  # it never went to REST
    gone(told.at(22.5), "f4")
    claims(told.at(22.75), "f4", "bus")
    claims(told.at(23.5), "f2", "rest")
    claims(told.at(24), "f2", "bus")
    claims(told.at(30), "f2", "bus")
    assert seconds(told, BROKER_BACK) == [1.5, 4.5]


@pytest.mark.parametrize("kind", ["down", "paused"])
def test_a_factory_that_did_not_live_to_see_the_broker_again_is_no_return(kind: str) -> None:
    told, _ = fleet()
    lived_outage(told.at(10), "begins")
    claims(told.at(11), "f1", "rest")
    gone(told.at(12), "f1", kind)
    lived_outage(told.at(20), "ends")
    if kind == "down":
        told.at(25).up("f1", "s2", life=2)
    claims(told.at(30), "f1", "bus")
    assert seconds(told, BROKER_BACK) == [0.125], "of the other one"


def test_a_factory_that_was_killed_twice_did_not_live_through_the_outage_either() -> None:
    told, _ = fleet()
    lived_outage(told.at(10), "begins")
    claims(told.at(11), "f1", "rest")
    gone(told.at(12), "f1")
    told.at(13).up("f1", "s2", life=2)
    lived_outage(told.at(20), "ends")
    claims(told.at(30), "f1", "bus")
    gone(told.at(40), "f1", life=2)
    assert seconds(told, BROKER_BACK) == [0.125], "of the other one"


def test_a_factory_that_ends_after_it_was_back_is_a_return() -> None:
    told, _ = fleet()
    outage(told.at(10), "begins")
    claims(told.at(11), "f1", "rest")
    outage(told.at(20), "ends")
    claims(told.at(21), "f1", "bus")
    gone(told.at(40), "f1")
    assert seconds(told, BROKER_BACK) == [1.5]


# -- a coordinator is gone --


def coordinator_killed(told: Told, how: str = "killed") -> None:
    told.note("down", "coordinator:c1", life=1, how=how)


def test_from_a_coordinators_end_to_the_next_grant() -> None:
    told, job = fleet()
    early = told.at(9).claim_asked("f3")
    coordinator_killed(told.at(10))
    told.at(10.5).answered(early, "factory:f3", grants=[told.grant(job)])  # asked before
    claims(told.at(11), "f1", "bus")  # in vain
    claims(told.at(13), "f1", "bus", job=job)
    claims(told.at(14), "f1", "rest", job=job)
    assert all_seconds(told) == {COORDINATOR_TO_CLAIM: [3.5]}


def test_a_grant_with_the_answer_to_a_report_is_one_too() -> None:
    told, job = fleet()
    coordinator_killed(told.at(10))
    for grants in ([], [told.grant(job)]):
        ask = told.at(told.now + 1).report_asked(job, "f1")
        told.answered(ask, "factory:f1", report={"stage": "shipped"}, next={"grants": grants})
    assert seconds(told, COORDINATOR_TO_CLAIM) == [2.0]


def test_a_coordinators_end_with_trouble_in_the_store_on_top_of_it_is_left_out() -> None:
    told, job = fleet()
    coordinator_killed(told.at(10))
    told.at(11).fault("begins", "store-outage", "coordinator:c2")
    claims(told.at(14), "f1", "rest", job=job)
    told.at(20).fault("ends", "store-outage", "coordinator:c2")
    coordinator_killed(told.at(30))
    claims(told.at(31), "f1", "rest", job=job)
    assert seconds(told, COORDINATOR_TO_CLAIM) == [1.5]


def test_a_coordinator_that_ended_as_it_should_and_a_report_that_asks_for_nothing_count_for_nothing() -> None:
    told, job = fleet()
    coordinator_killed(told.at(10), "ended")
    claims(told.at(11), "f1", "bus", job=job)
    coordinator_killed(told.at(12))
    ask = told.at(13).report_asked(job, "f1")
    told.answered(ask, "factory:f1", report={"stage": "shipped"}, next=None)
    assert seconds(told, COORDINATOR_TO_CLAIM) == []


# -- costs --


def phase(told: Told, does: str, name: str = "steady") -> None:
    told.note("phase", "world", name=name, does=does)


def offered(told: Told, job: str, count: int) -> None:
    for _ in range(count):
        told.note("offered", "world", productId=PRODUCT, jobId=job, leaseEpoch=1)


def refused(told: Told, factory: str, code: str = "conflict") -> None:
    told.refused(told.claim_asked(factory, over="bus"), f"factory:{factory}", code)


def test_offers_and_conflicts_of_the_steady_phase_are_told_from_those_of_the_whole_run() -> None:
    told, first = fleet()
    offered(told, first, 10)
    refused(told, "f1")
    told.granted(first, "f1")
    told.at(2).started(first, "f1")
    phase(told.at(5), "begins")
    for number in range(4):
        job = told.at(6 + number).submit(f"k{number}-steady")
        offered(told, job, 2)
        told.granted(job, "f2", request=f"r{number}")
        told.started(job, "f2")
    refused(told, "f1")
    refused(told, "f3", "no_capability")
    told.refused(told.report_asked(first, "f1"), "factory:f1", "conflict")
    phase(told.at(20), "ends")
    offered(told.at(21), first, 7)
    refused(told, "f1")
    found = measured(told.history)
    assert found.steady == Cost(started=4, offers=8, conflicts=1)
    assert found.whole == Cost(started=5, offers=25, conflicts=3)
    assert (found.steady.offers_per_start, found.steady.conflicts_per_start) == (2.0, 0.25)


def test_without_a_steady_phase_there_is_no_steady_cost_and_other_phases_are_none() -> None:
    told, job = fleet()
    phase(told, "begins", "storm")
    offered(told, job, 3)
    phase(told.at(9), "ends", "storm")
    found = measured(told.history)
    assert found.steady is None
    assert found.whole == Cost(started=0, offers=3, conflicts=0)
    assert found.whole.offers_per_start == 3.0, "though nothing was started"


# -- jobs and faults --


@pytest.mark.parametrize(
    ("stage", "lost"),
    [("shipped", 0), ("failed", 0), ("dead_letter", 0), ("queued", 1), ("building", 1), ("review", 1)],
)
def test_an_acknowledged_job_is_lost_unless_it_is_finished(stage: str, lost: int) -> None:
    told, job = fleet()
    told.doc(job)["stage"] = stage
    told.doc(told.submit("k2"))["stage"] = "shipped"
    found = measured(told.history)
    assert (found.jobs, found.finished, found.lost) == (2, 2 - lost, lost)


def test_an_acknowledged_job_that_the_store_does_not_have_is_lost() -> None:
    told, _ = fleet()
    told.history.documents["fleet_jobs"].clear()
    assert (measured(told.history).jobs, measured(told.history).lost) == (1, 1)


def test_a_job_that_nobody_acknowledged_is_neither_lost_nor_counted() -> None:
    told, job = fleet()
    told.doc(job)["stage"] = "shipped"
    told.unanswered(told.asked("submit", {"idempotencyKey": "k2"}, "operator:ann"), "operator:ann")
    told.job("k2")
    found = measured(told.history)
    assert (found.jobs, found.finished, found.lost) == (1, 1, 0)


def test_a_submit_that_was_answered_twice_is_one_job() -> None:
    told, job = fleet()
    ask = told.asked("submit", {"idempotencyKey": "k1"}, "operator:ann")
    told.answered(ask, "operator:ann", jobId=job, stage="queued", opId="k1", repeated=True)
    assert measured(told.history).jobs == 1


def test_what_is_no_job_among_the_documents_of_jobs_is_left_out() -> None:
    told, job = fleet()
    told.doc(job)["stage"] = "shipped"
    told.history.documents["fleet_jobs"].append({"id": "lock:repo", "productId": PRODUCT})
    assert measured(told.history).lost == 0


def test_faults_are_counted_by_what_they_did_to_what() -> None:
    told, _ = fleet()
    for at_s in (10, 20):
        lived_outage(told.at(at_s), "begins")
        lived_outage(told.at(at_s + 1), "ends")
    told.fault("once", "stream-deleted", "bus")
    for factory, how in (("f1", "killed"), ("f2", "killed"), ("f3", "drained"), ("f4", "ended"), ("f5", "fenced")):
        gone(told, factory, how=how)
    gone(told, "f6", "paused")
    told.note("resumed", "factory:f6", life=1)
    coordinator_killed(told)
    assert measured(told.history).faults == {
        "bus-outage": 2,
        "stream-deleted": 1,
        "factory killed": 2,
        "factory drained": 1,
        "factory stopped": 1,
        "coordinator killed": 1,
    }


def test_a_history_of_nothing_has_nothing_to_tell() -> None:
    found = measured(History())
    assert (found.jobs, found.lost, found.faults, found.recoveries, found.steady) == (0, 0, {}, [], None)
    assert found.whole == Cost(started=0, offers=0, conflicts=0)


def test_an_outage_that_nobody_came_back_from_is_measured_all_the_same() -> None:
    told, _ = fleet()
    outage(told.at(10), "begins")
    outage(told.at(20), "ends")
    assert all_seconds(told) == {}


def test_a_kill_after_the_engine_had_ended_is_no_recovery() -> None:
    told, job = fleet()
    told.at(2).engine("begins", "f1", job)
    told.at(5).engine("ends", "f1", job)
    gone(told.at(7), "f1")
    told.at(8).engine("begins", "f2", job, 2)
    assert all_seconds(told) == {}


def test_a_stop_that_was_over_long_before_the_term_ended_is_no_recovery() -> None:
    told, job = fleet()
    told.at(2).engine("begins", "f1", job)
    gone(told.at(5), "f1", "paused")
    told.at(6).note("resumed", "factory:f1", life=1)
    told.at(90).engine("ends", "f1", job)
    told.at(91).engine("begins", "f2", job, 2)
    assert all_seconds(told) == {}


def test_a_factory_that_was_restarted_long_after_an_outage_lived_through_it() -> None:
    told, _ = fleet()
    outage(told.at(10), "begins")
    beats(told, "f1", "rest")
    outage(told.at(20), "ends")
    beats(told.at(21), "f1", "bus")
    gone(told.at(50), "f1")
    told.at(51).up("f1", "s2", life=2)
    assert seconds(told, BROKER_BACK) == [1.0]
