"""The checker of promise 17, shown what breaks it and what does not."""

from __future__ import annotations

from typing import Any

from chaos.checkers import blame
from chaos.history import Doc, History


def history_of(*events: tuple[str, Doc], used: int = 0) -> History:
    told: list[Doc] = []
    for seq, (kind, data) in enumerate(events, start=1):
        told.append(
            {
                "id": f"j1:{seq}",
                "jobId": "j1",
                "productId": "shop",
                "seq": seq,
                "type": kind,
                "data": data,
                "leaseEpoch": 1,
                "opId": f"{seq}",
                "to": "queued",
                "actor": "f",
            }
        )
    job: dict[str, Any] = {"id": "j1", "stage": "queued", "productId": "shop", "retries": {"max": 2, "used": used}}
    empty: dict[str, list[Doc]] = {name: [] for name in ("fleet_runs", "fleet_leases", "fleet_factories")}
    return History(documents={"fleet_jobs": [job], "fleet_events": told, **empty})


def claimed(factory: str) -> tuple[str, Doc]:
    return "claimed", {"factoryId": factory, "sessionId": "s1", "requestId": "r1"}


def reported(outcome: str) -> tuple[str, Doc]:
    return "reported", {"outcome": outcome, "sessionId": "s1"}


REQUEUED: tuple[str, Doc] = ("requeued", {})


def found(*events: tuple[str, Doc], used: int = 0) -> list[str]:
    return [violation.what for violation in blame.check(history_of(*events, used=used))]


def test_another_machine_is_right_and_the_same_one_is_not() -> None:
    assert found(claimed("f1"), reported("machine_failed"), claimed("f2"), reported("ok")) == []
    (what,) = found(claimed("f1"), reported("machine_failed"), claimed("f2"), reported("released"), claimed("f1"))
    assert "given to f1 again" in what


def test_a_person_may_send_it_there_again() -> None:
    assert found(claimed("f1"), reported("machine_failed"), REQUEUED, claimed("f1"), reported("ok")) == []


def test_only_the_jobs_own_programs_cost_it_retries() -> None:
    assert found(claimed("f1"), reported("engine_failed"), claimed("f1"), reported("verify_failed"), used=2) == []
    assert found(claimed("f1"), reported("machine_failed"), claimed("f2"), reported("unpublished"), used=1) != []
    assert found(claimed("f1"), reported("timeout"), claimed("f1"), reported("stalled"), used=1) != []
    assert found(claimed("f1"), reported("engine_failed"), REQUEUED, claimed("f1"), used=0) == []
