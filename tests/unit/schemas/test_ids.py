"""Ids are safe in subjects, paths and refs; derived ids are the same everywhere and never collide."""

from __future__ import annotations

import re
from inspect import signature

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas import ids
from schemas.ids import Id, Key, Name, RequestId, check_id, check_name

SAFE = re.compile(r"[a-z0-9][a-z0-9_-]*")
BAD = ["", "any", "-a", "_a", "A", "a.b", "a*", "a>", "a b", "a/b", "a\n", "é", "٣", "a\0", "..", "a:b", "a@b", "a~b"]
NAMES = st.from_regex(re.compile(ids.NAME_PATTERN), fullmatch=True).filter(lambda name: name != "any")
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=ids.KEY_LENGTH_MAX)


@pytest.mark.parametrize("value", ["a", "0", "shop", "a-b_c", "anyone", "a" * 32])
def test_what_fits_the_pattern_is_an_id_and_a_name(value: str) -> None:
    assert check_id(value) == check_name(value) == value


@pytest.mark.parametrize("value", BAD, ids=repr)
@pytest.mark.parametrize("check", [check_id, check_name])
def test_what_would_mean_something_else_in_a_subject_a_path_or_a_ref_is_none(check, value: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="allowed is"):
        check(value)


@given(st.text(max_size=70))
def test_whatever_is_taken_is_safe(text: str) -> None:
    for check, length in ((check_id, 64), (check_name, 32)):
        safe = SAFE.fullmatch(text) is not None and len(text) <= length and text != "any"
        try:
            taken = check(text) == text
        except ValueError:
            taken = False
        assert taken == safe


def test_an_id_has_at_most_64_characters_and_a_name_32() -> None:
    assert check_id("a" * 64)
    for check, length in ((check_id, 65), (check_name, 33)):
        with pytest.raises(ValueError, match="allowed is"):
            check("a" * length)


@pytest.mark.parametrize("value", ["r1", "R-1_x", "a" * 64])
def test_a_request_id_may_have_capitals_too(value: str) -> None:
    assert TypeAdapter(RequestId).validate_python(value) == value


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *[(RequestId, value) for value in ("", "a" * 65, "a\n", "a.b", "a b")],
        *[(Id, "any"), (Name, "a" * 33), (Key, ""), (Key, "k" * 201)],
    ],
)
def test_messages_refuse_the_ids_that_are_none(kind: object, value: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(value)


@given(NAMES, KEYS)
def test_the_same_key_always_names_the_same_job_by_a_legal_id(product: str, key: str) -> None:
    job_id = ids.job_id_for(product, key)
    assert check_id(job_id) == job_id == ids.job_id_for(product, key)


def test_a_jobs_id_never_changes_with_a_new_version() -> None:
    assert ids.job_id_for("shop", "nightly") == "jiv5f4u6ilkdvrf6qpxq3ghlr"


@given(st.tuples(NAMES, KEYS), st.tuples(NAMES, KEYS))
def test_another_product_or_key_names_another_job(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (ids.job_id_for(*one) == ids.job_id_for(*other)) == (one == other)


def test_derived_ids_are_what_the_spec_says() -> None:
    assert ids.event_id("j1", 7) == "j1:7"
    assert ids.run_id("j1", 2) == ids.lease_id("j1", 2) == "j1:2"
    assert ids.lock_id("repo") == "lock:repo"
    assert ids.LEDGER_ID == "ledger"
    assert ids.start_op("j1", 2) == "j1:2:start"
    assert ids.checkpoint_op("j1", 2, 3) == "j1:2:checkpoint:3"
    assert ids.end_op("j1", 2) == "j1:2:end"


@pytest.mark.parametrize("derived", [ids.lock_id("a"), ids.body_id("j1", "0" * 64)])
def test_a_guards_or_bodys_id_can_be_no_jobs(derived: str) -> None:
    with pytest.raises(ValueError, match="is no id"):
        check_id(derived)


OPS = [
    ids.submit_op,
    ids.claim_op,
    ids.start_op,
    ids.checkpoint_op,
    ids.end_op,
    ids.ship_op,
    ids.follow_up_op,
    ids.action_op,
]


@given(st.lists(st.integers(1, 40), min_size=8, max_size=8), st.lists(st.integers(1, 40), min_size=8, max_size=8))
def test_two_operations_of_one_kind_share_an_id_only_if_all_their_parts_are_the_same(
    these: list[int], those: list[int]
) -> None:
    for make in OPS:
        kinds = [p.annotation for p in signature(make).parameters.values()]
        one, other = (
            tuple(n if kind == "int" else f"x{n}" for n, kind in zip(numbers, kinds, strict=False))
            for numbers in (these, those)
        )
        assert (make(*one) == make(*other)) == (one == other)  # type: ignore[operator]


def test_of_one_job_no_two_operations_of_different_kinds_share_an_id() -> None:
    made = [
        ids.submit_op("k"),
        ids.claim_op("f1", 1, "s1", "r1"),
        ids.start_op("j", 1),
        ids.checkpoint_op("j", 1, 1),
        ids.end_op("j", 1),
        ids.ship_op("j", 1),
        *[ids.reap_op("j", 1, cause) for cause in ("expired", "not_started", "missing", "session_gone")],
        *[ids.follow_up_op("j", 1, action) for action in ("unblock", "explain_block", "retry", "bury")],
        *[ids.action_op(action, "operator:ann", "k") for action in ("ship", "requeue", "reject", "cancel", "preempt")],
    ]
    assert len(set(made)) == len(made)
