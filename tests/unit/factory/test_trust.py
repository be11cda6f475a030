"""Trust counts from when this side asked, ends a margin early, and once it is lost no answer brings it back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.trust import TrustWindow
from tests.support.terms import term_times

MARGIN_S = 5.0


def window(asked_at_s: float = 100.0, *, started: bool = True, lease_left_s: float = 60.0) -> TrustWindow:
    return TrustWindow(asked_at_s, term_times(lease_left_s, start_within_s=30.0), MARGIN_S, started=started)


def test_trust_counts_from_when_it_was_asked_for_and_ends_a_margin_early() -> None:
    trust = window(asked_at_s=100.0)
    assert trust.until_s == 100.0 + 60.0 - MARGIN_S
    assert trust.holds(154.999)
    assert not trust.holds(155.0)


@pytest.mark.parametrize(("lease_left_s", "until_s"), [(60.0, 125.0), (30.0, 125.0), (12.0, 107.0)])
def test_a_grant_whose_start_is_not_acknowledged_is_trusted_for_the_shorter_of_lease_and_start_window(
    lease_left_s: float, until_s: float
) -> None:
    assert window(started=False, lease_left_s=lease_left_s).until_s == until_s


def test_an_acknowledged_start_gives_the_lease_from_when_the_start_was_asked_for() -> None:
    trust = window(started=False)
    assert trust.extend(asked_at_s=110.0, lease_left_s=60.0, now_s=112.0)
    assert trust.until_s == 165.0


def test_an_answer_to_an_older_ask_never_shortens_trust() -> None:
    trust = window(asked_at_s=100.0)
    assert trust.extend(asked_at_s=90.0, lease_left_s=60.0, now_s=120.0)
    assert trust.extend(asked_at_s=119.0, lease_left_s=1.0, now_s=120.0)
    assert trust.until_s == 155.0


def test_a_late_renewal_never_restores_trust_that_has_run_out() -> None:
    trust = window(asked_at_s=100.0)
    assert not trust.extend(asked_at_s=154.0, lease_left_s=60.0, now_s=155.0)
    assert trust.until_s == 155.0
    assert not trust.holds(155.0)


def test_trust_that_was_seen_lost_stays_lost_even_if_the_clock_were_read_as_earlier() -> None:
    trust = window(asked_at_s=100.0)
    assert not trust.holds(155.0)
    assert not trust.holds(101.0)
    assert not trust.extend(asked_at_s=101.0, lease_left_s=600.0, now_s=101.0)


def test_trust_that_the_coordinator_ended_is_lost_at_once_and_for_good() -> None:
    trust = window(asked_at_s=100.0)
    trust.end()
    assert not trust.holds(100.0)
    assert not trust.extend(asked_at_s=100.0, lease_left_s=60.0, now_s=100.0)


def test_a_repeated_grant_with_nothing_left_is_never_trusted() -> None:
    assert not window(asked_at_s=100.0, lease_left_s=0.0).holds(100.0)
    assert not window(asked_at_s=100.0, lease_left_s=MARGIN_S).holds(100.0)


times = st.floats(min_value=0, max_value=1000, allow_nan=False)


@given(st.lists(st.tuples(times, times, times)))
def test_whatever_is_answered_trust_never_moves_back_nor_beyond_what_was_said(
    answers: list[tuple[float, float, float]],
) -> None:
    trust = window(asked_at_s=0.0, lease_left_s=50.0)
    now_s, furthest_s = 0.0, trust.until_s
    for later_s, ago_s, lease_left_s in answers:
        now_s += later_s / 100
        before_s, held = trust.until_s, trust.holds(now_s)
        extended = trust.extend(now_s - min(ago_s, now_s), lease_left_s, now_s)
        furthest_s = max(furthest_s, now_s + lease_left_s - MARGIN_S)
        assert extended == held
        assert before_s <= trust.until_s <= furthest_s
        if not held:
            assert trust.until_s == before_s
            assert not trust.holds(now_s)
