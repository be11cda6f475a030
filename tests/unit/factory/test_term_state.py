"""What becomes of an engine follows from what was heard and from the time alone."""

from __future__ import annotations

import pytest

from factory.term_state import OUTCOME_OF, EndReason, TermState
from factory.trust import TrustWindow
from schemas.outcome import CHARGED, Outcome
from tests.support.terms import grant, stop_order, term_times

IDLE_S = 100.0
TRUST_S = 1000.0


def session(timeout_s: float = 300.0, trust_s: float = TRUST_S, *, started: bool = True) -> TermState:
    """Granted at 0, with no margin."""
    granted = grant(timeout_s=timeout_s, started=started, term=term_times(trust_s, trust_s))
    return TermState(granted, TrustWindow(0.0, granted.term, 0.0, started=started), IDLE_S)


def running(**changes: float) -> TermState:
    """Its engine began at 10."""
    made = session(**changes)
    made.engine_started(10.0)
    return made


def test_an_engine_may_run_while_nothing_speaks_against_it() -> None:
    assert running().must_end(109.9) is None


def test_it_ends_when_trust_runs_out() -> None:
    held = running(trust_s=50.0)
    assert held.must_end(49.9) is None
    assert held.must_end(50.0) is EndReason.TRUST_LOST


def test_it_ends_when_its_time_is_over_however_much_it_prints() -> None:
    held = running(timeout_s=300.0)
    held.progressed(309.0)
    assert held.must_end(309.9) is None
    assert held.must_end(310.0) is EndReason.TIMEOUT


def test_a_later_program_of_the_term_gets_what_is_left_of_its_time_and_an_idle_time_of_its_own() -> None:
    held = running(timeout_s=300.0)
    held.engine_started(250.0)
    assert held.next_look_s() == 310.0
    assert held.must_end(309.9) is None
    assert held.must_end(310.0) is EndReason.TIMEOUT


def test_it_is_stalled_when_it_has_printed_nothing_for_the_idle_limit() -> None:
    held = running()
    held.progressed(60.0)
    assert held.must_end(159.9) is None
    assert held.must_end(160.0) is EndReason.STALLED


def test_a_told_stop_ends_it_at_once() -> None:
    held = running()
    held.heard_stop(stop_order("preempt", by_s=30.0), 20.0)
    assert held.must_end(20.0) is EndReason.PREEMPT


def test_cancel_overrides_preempt_and_preempt_never_overrides_cancel() -> None:
    held = running()
    held.heard_stop(stop_order("preempt"), 20.0)
    held.heard_stop(stop_order("cancel"), 21.0)
    assert held.must_end(21.0) is EndReason.CANCEL
    held.heard_stop(stop_order("preempt"), 22.0)
    assert held.must_end(22.0) is EndReason.CANCEL


def test_the_repeat_of_a_stop_never_moves_its_deadline_back() -> None:
    held = running()
    held.heard_stop(stop_order("cancel", by_s=30.0), 20.0)
    held.heard_stop(stop_order("cancel", by_s=30.0), 40.0)
    assert held.stop_by_s == 50.0


def test_a_draining_factory_lets_it_run_until_the_grace_is_over() -> None:
    held = running()
    held.drain(by_s=60.0)
    assert held.must_end(59.9) is None
    assert held.must_end(60.0) is EndReason.DRAIN


def test_a_second_drain_can_only_shorten_the_grace() -> None:
    held = running()
    held.drain(by_s=60.0)
    held.drain(by_s=90.0)
    assert held.drain_by_s == 60.0
    held.drain(by_s=30.0)
    assert held.must_end(30.0) is EndReason.DRAIN


def test_a_fenced_term_is_over_whatever_else_was_heard() -> None:
    held = running()
    held.heard_stop(stop_order("cancel"), 20.0)
    held.heard_fenced()
    assert held.fenced
    assert held.must_end(20.0) is EndReason.TRUST_LOST


def test_lost_trust_comes_before_every_other_reason_since_nothing_may_be_pushed_any_more() -> None:
    held = running(trust_s=50.0, timeout_s=30.0)
    held.heard_stop(stop_order("cancel"), 20.0)
    held.drain(by_s=40.0)
    assert held.must_end(50.0) is EndReason.TRUST_LOST


def test_before_the_engine_runs_neither_its_time_nor_its_silence_counts() -> None:
    assert session(timeout_s=30.0).must_end(999.0) is None


def test_the_grant_of_a_term_that_had_begun_needs_no_acknowledged_start() -> None:
    assert session(started=True).start_acknowledged
    assert not session(started=False).start_acknowledged


def test_checkpoints_are_numbered_from_one() -> None:
    held = session()
    assert [held.next_checkpoint(), held.next_checkpoint()] == [1, 2]


@pytest.mark.parametrize(
    ("drain_by_s", "trust_s", "timeout_s", "progress_s", "look_s"),
    [
        (None, TRUST_S, 300.0, 10.0, 110.0),
        (None, TRUST_S, 300.0, 250.0, 310.0),
        (None, 70.0, 300.0, 10.0, 70.0),
        (40.0, 70.0, 300.0, 10.0, 40.0),
    ],
)
def test_the_next_look_is_the_first_time_at_which_anything_could_change(
    drain_by_s: float | None, trust_s: float, timeout_s: float, progress_s: float, look_s: float
) -> None:
    held = running(trust_s=trust_s, timeout_s=timeout_s)
    held.progressed(progress_s)
    if drain_by_s is not None:
        held.drain(drain_by_s)
    assert held.next_look_s() == look_s
    assert held.must_end(look_s - 0.001) is None
    assert held.must_end(look_s) is not None


def test_every_early_end_has_an_outcome_and_only_the_engines_own_faults_use_a_retry() -> None:
    assert set(OUTCOME_OF) == set(EndReason)
    charged = {reason for reason, outcome in OUTCOME_OF.items() if outcome in CHARGED}
    assert charged == {EndReason.TIMEOUT, EndReason.STALLED}
    assert OUTCOME_OF[EndReason.TRUST_LOST] is Outcome.RELEASED
