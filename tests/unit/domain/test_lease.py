"""A lease says how long, never who; closed is final; a renewal writes only when it is worth it."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain import lease as rules
from schemas.projections import LeaseDoc, LeaseStatus
from tests.unit.domain.builders import NOW, building, claim, new, release, start, then

TTL_S = 60.0
HELD = then(new(), claim)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def lease(expires_in_s: float = TTL_S, status: LeaseStatus = LeaseStatus.ACTIVE) -> LeaseDoc:
    return rules.granted(HELD, TTL_S).model_copy(update={"expires_at": at(expires_in_s), "status": status})


def test_a_grants_lease_names_the_term_and_lives_one_ttl() -> None:
    doc = rules.granted(HELD, TTL_S)
    assert (doc.id, doc.job_id, doc.lease_epoch) == ("job:1", "job", 1)
    assert (doc.holder_factory_id, doc.session_id) == ("f1", "s1")
    assert (doc.acquired_at, doc.expires_at, doc.status) == (NOW, at(TTL_S), LeaseStatus.ACTIVE)


def test_each_term_has_a_lease_of_its_own() -> None:
    second = then(HELD, release, claim)
    assert rules.granted(second, TTL_S).id == "job:2"


def test_a_held_job_without_a_lease_lives_one_ttl_from_its_stages_beginning() -> None:
    assert rules.expires_at(HELD, None, TTL_S) == at(TTL_S)
    started = then(HELD, start, now=at(20))
    assert rules.expires_at(started, None, TTL_S) == at(20 + TTL_S)


def test_the_lease_document_counts_where_there_is_one() -> None:
    assert rules.expires_at(building(), lease(7), TTL_S) == at(7)


def test_the_first_renewal_makes_a_missing_lease() -> None:
    made = rules.renewed(HELD, None, at(10), TTL_S)
    assert made == rules.granted(HELD, TTL_S).model_copy(update={"expires_at": at(70)})


@pytest.mark.parametrize(("left_s", "written"), [(60, False), (40, False), (39.999, True), (1, True), (-5, True)])
def test_a_renewal_writes_only_below_two_thirds_of_the_ttl(left_s: float, written: bool) -> None:
    before = lease(100 + left_s)
    after = rules.renewed(HELD, before, at(100), TTL_S)
    assert after is not None
    assert (after is not before) == written
    assert after.expires_at == (at(160) if written else before.expires_at)


@given(st.floats(-300, 300), st.floats(9, 600))
def test_after_a_renewal_two_thirds_of_the_ttl_are_left_and_never_less_than_before(left_s: float, ttl_s: float) -> None:
    before = lease(left_s)
    after = rules.renewed(HELD, before, NOW, ttl_s)
    assert after is not None
    assert after.expires_at >= before.expires_at
    assert (after.expires_at - NOW).total_seconds() >= 2 / 3 * ttl_s - 1e-6
    assert after.model_copy(update={"expires_at": before.expires_at}) == before


@given(st.floats(-300, 300))
def test_a_closed_lease_is_never_renewed_however_much_was_left(left_s: float) -> None:
    assert rules.renewed(HELD, lease(left_s, LeaseStatus.CLOSED), NOW, TTL_S) is None


def test_closing_keeps_all_else_and_twice_is_once() -> None:
    shut = rules.closed(HELD, lease(), at(61))
    assert shut == lease(status=LeaseStatus.CLOSED)
    assert rules.closed(HELD, shut, at(99)) == shut


def test_a_missing_lease_is_made_closed() -> None:
    made = rules.closed(HELD, None, at(61))
    assert (made.id, made.status, made.expires_at) == ("job:1", LeaseStatus.CLOSED, at(61))


def test_nobody_has_no_lease() -> None:
    with pytest.raises(AssertionError):
        rules.granted(new(), TTL_S)
