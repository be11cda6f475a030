from collections.abc import Callable

import pytest

from bus import subjects
from bus.subjects import RPC_OPS, RpcAddress, parse_rpc

BAD_NAMES = ["", "a.b", ".", "*", "a*", ">", "a>", "a b", " a", "a\t", "a\n", "a\r\nPUB x", "any", "A", "-a", "ä"]

BUILDERS: list[Callable[[str], str]] = [
    lambda bad: subjects.offer_subject(bad, "gpu"),
    lambda bad: subjects.rpc_subject(bad, "claim"),
    subjects.rpc_of_factory,
    subjects.ctl_subject,
    subjects.roster_subject,
    lambda bad: subjects.event_subject(bad, "j1"),
    lambda bad: subjects.event_subject("p1", bad),
    lambda bad: subjects.log_subject(bad, "f1", "j1"),
    lambda bad: subjects.log_subject("p1", bad, "j1"),
    lambda bad: subjects.log_subject("p1", "f1", bad),
    lambda bad: subjects.logs_of_factory(bad, "f1"),
    lambda bad: subjects.logs_of_factory("p1", bad),
    lambda bad: subjects.logs_of_job(bad, "j1"),
    lambda bad: subjects.logs_of_job("p1", bad),
    subjects.inbox_prefix,
]


@pytest.mark.parametrize("bad", BAD_NAMES)
@pytest.mark.parametrize("build", BUILDERS)
def test_no_subject_is_built_from_a_bad_name(build: Callable[[str], str], bad: str) -> None:
    with pytest.raises(ValueError, match="allowed is"):
        build(bad)


@pytest.mark.parametrize("bad", [name for name in BAD_NAMES if name != "any"])
def test_a_capability_is_a_name_and_any_stands_for_none(bad: str) -> None:
    assert subjects.offer_subject("p1", subjects.ANY) == "fleet.v1.offers.p1.any"
    with pytest.raises(ValueError, match="allowed is"):
        subjects.offer_subject("p1", bad)


def test_a_request_for_something_unknown_cannot_be_built() -> None:
    with pytest.raises(AssertionError):
        subjects.rpc_subject("f1", "steal")


@pytest.mark.parametrize("op", RPC_OPS)
def test_a_request_subject_is_read_back(op: str) -> None:
    assert parse_rpc(subjects.rpc_subject("f1", op)) == RpcAddress("f1", op)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "fleet.v1.rpc.f1",
        "fleet.v1.rpc.f1.claim.more",
        "fleet.v1.rpc.f1.steal",
        "fleet.v2.rpc.f1.claim",
        "fleet.v1.ctl.f1.claim",
        "other.fleet.v1.rpc.f1.claim",
    ],
)
def test_what_is_no_request_subject_is_none(subject: str) -> None:
    assert parse_rpc(subject) is None


@pytest.mark.parametrize(
    ("reply", "own"),
    [
        ("_INBOX_f1.abc", True),
        ("_INBOX_f1.abc.7", True),
        ("_INBOX_f1", False),
        ("_INBOX_f12.abc", False),
        ("_INBOX_f2.abc", False),
        ("_INBOX.abc", False),
        ("fleet.v1.ctl.f1", False),
        ("", False),
    ],
)
def test_only_a_factorys_own_inbox_is_its_own(reply: str, own: bool) -> None:
    assert subjects.is_own_inbox("f1", reply) is own
    assert subjects.inbox_prefix("f1") == "_INBOX_f1"
