"""Timings that cannot keep the promises are refused when they are made; the defaults are the promised ones."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.settings import Flags, SettingsError, Timers, flag
from schemas.work import Retries

PROMISED = {
    "lease_ttl_s": 60,
    "trust_margin_s": 5,
    "rest_renew_s": 20,
    "grant_start_s": 30,
    "stop_deadline_s": 30,
    "heartbeat_s": 5,
    "down_after_s": 15,
    "reaper_s": 5,
    "offer_round_s": 0.25,
    "long_poll_s": 20,
    "sweeper_s": 5,
    "rpc_timeout_s": 0.5,
    "skew_s": 2,
    "roster_store_s": 20,
    "ready_refresh_s": 1,
}
NAMES = [field.name for field in fields(Timers)]


def relations(t: Timers) -> dict[str, bool]:
    """The relations between timers, said once more. The read-back of a write takes as long as a write may."""
    return {
        "heartbeats": 2 / 3 * t.lease_ttl_s - t.trust_margin_s > 2 * t.heartbeat_s + t.rpc_timeout_s,
        "rest": t.rest_renew_s < t.lease_ttl_s - t.trust_margin_s,
        "wait": t.long_poll_s + t.trust_margin_s + 2 < t.grant_start_s,
        "stop": t.stop_deadline_s >= t.rest_renew_s + t.trust_margin_s,
        "store": t.lease_ttl_s > 2 * (t.store_timeout_s + t.store_timeout_s),
    }


@pytest.mark.parametrize(("name", "value"), PROMISED.items())
def test_each_default_is_the_specs(name: str, value: float) -> None:
    assert getattr(Timers(), name) == value


def test_the_default_of_retries_is_the_specs() -> None:
    assert (Retries().max, Retries().backoff_s) == (2, 30)


def test_the_defaults_keep_every_relation() -> None:
    assert all(relations(Timers()).values())


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"heartbeat_s": 17.25}, "2 heartbeats"),
        ({"rpc_timeout_s": 25.0}, "rpc_timeout_s"),
        ({"trust_margin_s": 29.5, "long_poll_s": 0.1, "stop_deadline_s": 60.0, "grant_start_s": 60.0}, "2 heartbeats"),
        ({"rest_renew_s": 55.0, "stop_deadline_s": 90.0}, "rest_renew_s must be below"),
        ({"long_poll_s": 23.0}, "long_poll_s"),
        ({"grant_start_s": 27.0}, "grant_start_s"),
        ({"skew_s": 5.0}, "skew_s"),
        ({"stop_deadline_s": 24.9}, "stop_deadline_s"),
        ({"store_timeout_s": 15.0}, "store"),
    ],
)
def test_a_broken_relation_is_refused_by_its_sentence(values: dict[str, float], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        Timers(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"heartbeat_s": 17.2},
        {"rest_renew_s": 54.9, "stop_deadline_s": 90.0},
        {"long_poll_s": 22.9},
        {"stop_deadline_s": 25.0},
        {"store_timeout_s": 14.9},
    ],
    ids=str,
)
def test_just_within_a_relation_is_taken(values: dict[str, float]) -> None:
    assert all(relations(Timers(**values)).values())


@pytest.mark.parametrize("value", [0.0, -1.0])
@pytest.mark.parametrize("name", NAMES)
def test_no_time_is_zero_or_negative(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=name):
        Timers(**{name: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_a_time_that_never_comes_is_refused(value: float) -> None:
    """A reaper that runs each `nan` seconds ends nothing, and a comparison with `nan` finds nothing wrong with it."""
    taken = [name for name in NAMES if accepted({name: value})]
    assert taken == []


def accepted(values: dict[str, float]) -> bool:
    try:
        Timers(**values)
    except SettingsError:
        return False
    return True


def test_changed_values_are_checked_as_new_ones_are() -> None:
    assert Timers().with_values(reaper_s=1).reaper_s == 1
    with pytest.raises(SettingsError):
        Timers().with_values(lease_ttl_s=10)


def test_a_lease_of_ten_seconds_has_a_heartbeat_and_a_margin_of_one() -> None:
    timers = Timers.for_lease_ttl(10)
    assert (timers.lease_ttl_s, timers.heartbeat_s, timers.trust_margin_s, timers.down_after_s) == (10, 1, 1, 3)
    assert all(relations(timers).values())


def test_a_lease_of_sixty_seconds_is_the_default() -> None:
    assert Timers.for_lease_ttl(60) == Timers()


@given(st.floats(9, 600) | st.integers(9, 600))
def test_every_ttl_from_nine_seconds_to_ten_minutes_keeps_every_relation(lease_ttl_s: float) -> None:
    timers = Timers.for_lease_ttl(lease_ttl_s)
    assert timers.lease_ttl_s == lease_ttl_s
    assert all(relations(timers).values())
    assert timers.down_after_s == pytest.approx(3 * timers.heartbeat_s)
    assert timers.rest_renew_s < timers.stop_deadline_s
    assert timers.reaper_s <= 5


@pytest.mark.parametrize("lease_ttl_s", [0, -10, 1, 5])
def test_a_ttl_too_short_to_keep_the_promises_is_refused(lease_ttl_s: float) -> None:
    with pytest.raises(SettingsError):
        Timers.for_lease_ttl(lease_ttl_s)


@pytest.mark.parametrize("text", ["1", "true", "YES", " on "])
def test_a_flag_is_on_when_its_variable_says_so(text: str) -> None:
    assert Flags.from_env({"FLEET_BUDGETS": text}) == Flags(budgets=True)


@pytest.mark.parametrize("env", [{}, {"FLEET_BUDGETS": ""}, {"FLEET_BUDGETS": "0"}, {"FLEET_PREEMPTION": "Off"}])
def test_flags_are_off_by_default(env: dict[str, str]) -> None:
    assert Flags.from_env(env) == Flags(budgets=False)


@pytest.mark.parametrize("text", ["2", "maybe", "enabled"])
def test_a_flag_that_says_neither_is_refused_rather_than_guessed(text: str) -> None:
    with pytest.raises(SettingsError, match="FLEET_BUDGETS"):
        flag({"FLEET_BUDGETS": text}, "FLEET_BUDGETS")
