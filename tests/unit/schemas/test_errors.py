"""One registry says of each code: which status, and whether it happened. A refusal survives the wire."""

from __future__ import annotations

import pytest

from schemas.errors import ERRORS, ErrorCode, FleetError

PROMISED = {
    "invalid_manifest", "not_found", "conflict", "fenced", "illegal_transition", "no_capability", "budget_paused",
    "unauthorized", "forbidden", "too_large", "rate_limited", "unavailable",
}  # fmt: skip


def test_every_code_of_the_spec_is_registered() -> None:
    assert {str(code) for code in ErrorCode} >= PROMISED
    assert set(ERRORS) == set(ErrorCode)


def test_whoever_is_refused_for_good_need_not_ask_again_and_whoever_is_in_doubt_must() -> None:
    assert {code for code, spec in ERRORS.items() if not spec.definite} == {ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL}
    assert all((spec.status < 500) == spec.definite for spec in ERRORS.values())
    assert ERRORS[ErrorCode.FENCED].status == ERRORS[ErrorCode.CONFLICT].status == 409


def test_an_error_survives_the_wire() -> None:
    error = FleetError(ErrorCode.FENCED, "stop now", leaseEpoch=3)
    again = FleetError.from_doc(error.to_doc())
    assert (again.code, again.message, again.detail) == (ErrorCode.FENCED, "stop now", {"leaseEpoch": 3})


@pytest.mark.parametrize("doc", [{}, {"code": "of_the_next_version", "message": "m"}, {"code": 5, "detail": None}])
def test_a_code_that_is_not_known_is_no_reason_to_believe_anything(doc: dict[str, object]) -> None:
    assert FleetError.from_doc(doc).code is ErrorCode.INTERNAL


@pytest.mark.parametrize("detail", [{"message": "x"}, {"code": "x"}, ["a"], "text"], ids=str)
def test_whatever_stands_in_the_detail_the_code_is_heard(detail: object) -> None:
    error = FleetError.from_doc({"code": "fenced", "message": "stop now", "detail": detail})
    assert (error.code, error.message) == (ErrorCode.FENCED, "stop now")
