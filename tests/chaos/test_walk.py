"""The walk finds nothing in the system as it is, and finds each way in which it could be broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from chaos.walk import WORLDS, SmallWorld, walk, walk_all
from chaos.walk.store_value import Call, StoreValue
from coordinator import leases
from coordinator.domain import decide as deciding
from coordinator.domain import lease as lease_rules
from coordinator.domain import patches
from coordinator.handlers import heartbeats
from coordinator.store.port import ABSENT, LEASES, Derived, Guarded, Written
from coordinator.transact import Transactor
from schemas.errors import ErrorCode, FleetError
from schemas.projections import LeaseStatus


def _world(name: str) -> SmallWorld:
    return next(world for world in WORLDS if world.name == name)


@pytest.mark.parametrize("world", [world for world in WORLDS if not world.only_deeper], ids=lambda world: world.name)
def test_no_interleaving_breaks_a_promise(world: SmallWorld) -> None:
    walked = walk(world, faults=world.faults)
    assert [str(found) for found in walked.found] == []
    assert not walked.cut
    assert walked.ends > 0


def test_a_walk_that_was_cut_says_so() -> None:
    world = _world("two claims")
    walked = walk(world, faults=1, limit=10)
    assert walked.cut
    assert walked.states == 10


def test_the_table_has_a_row_for_each_world_and_tells_of_violations(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    world = replace(_world("renew vs reap"), faults=0)
    assert walk_all(False, said.append, [world]) == 0
    assert len(said) == 2
    assert world.name in said[1]
    lease_left_open(monkeypatch)
    assert walk_all(False, said.append, [world]) == 1
    assert any("its renew was answered" in one for one in said)


def test_what_was_found_is_told_by_the_fewest_steps_and_with_its_history(monkeypatch: pytest.MonkeyPatch) -> None:
    lease_left_open(monkeypatch)
    found = walk(_world("renew vs reap"), faults=0).found[-1]
    assert len(found.path) < 12
    assert found.history is not None
    assert [record.data["op"] for record in found.history.of("asked")][-1] == "renew"


# Ways to break it. Each is caught in the smallest of worlds.


def racy_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """The etags are compared before others run, not when it is written."""
    monkeypatch.setattr(StoreValue, "commit_now", _unconditional)


def _unconditional(stored: StoreValue, guarded: Sequence[Guarded], then: Sequence[Derived]) -> Written:
    return MEMORY_COMMIT(stored, [_as_it_is(stored, write) for write in guarded], then)


def _as_it_is(stored: StoreValue, write: Guarded) -> Guarded:
    entry = stored.entry_at(write.address)
    return replace(write, expected=entry[1] if entry else ABSENT)


MEMORY_COMMIT = StoreValue.commit_now


def blind_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    def commit(stored: StoreValue, guarded: Sequence[Guarded], then: Sequence[Derived]) -> Written:
        seen = [_as_it_is(stored, one) if one.doc["id"].startswith("lock:") else one for one in guarded]
        return MEMORY_COMMIT(stored, seen, then)

    monkeypatch.setattr(StoreValue, "commit_now", commit)


def lock_written_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    async def commit(port: Any, guarded: Sequence[Guarded], then: Sequence[Derived] = ()) -> Written:
        for guard in guarded[1:]:
            await Call("commit", ((guard,), ()))
        written: Written = await Call("commit", (tuple(guarded[:1]), tuple(then)))
        return written

    monkeypatch.setattr("chaos.walk.store_value.Port.commit", commit)


def lease_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reaper goes straight to the job."""

    async def close(*args: Any) -> bool:
        return True

    monkeypatch.setattr(leases, "close", close)


def closed_lease_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    def renewed(job: Any, lease: Any, now: Any, ttl_s: float) -> Any:
        return RENEWED(job, lease and lease.model_copy(update={"status": LeaseStatus.ACTIVE}), now, ttl_s)

    monkeypatch.setattr(lease_rules, "renewed", renewed)


RENEWED = lease_rules.renewed


def epoch_never_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "next_epoch", lambda job: {})


def epoch_unused_by_a_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grant uses no epoch up, so that the next one has the same."""
    monkeypatch.setattr(patches, "next_epoch", lambda job: {"granted_epoch": job.granted_epoch - 1})


def op_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done already is asked for anew."""

    async def nothing(*_args: Any) -> None:
        return None

    async def refused(_transactor: Transactor, _ask: Any, rejected: Any) -> Any:
        return rejected

    monkeypatch.setattr(Transactor, "answer_own", nothing)
    monkeypatch.setattr(Transactor, "answer_refused", refused)


def no_session_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "holds", lambda job, op: job.holder is not None and job.lease_epoch == op.lease_epoch)


def no_epoch_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        deciding, "holds", lambda job, op: job.holder is not None and job.holder.session_id == op.session_id
    )


def projection_overwrites(monkeypatch: pytest.MonkeyPatch) -> None:
    def project(stored: StoreValue, derived: Sequence[Derived]) -> None:
        PROJECT(stored, derived)
        for write in derived:
            if write.container == LEASES:
                stored.put(write.container, write.doc)

    monkeypatch.setattr(StoreValue, "project_now", project)


PROJECT = StoreValue.project_now


def answers_never_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write whose answer was lost is taken for one that was refused."""
    monkeypatch.setattr("coordinator.store.change.TRIES_MAX", 1)
    refused = FleetError(ErrorCode.CONFLICT, "taken for a refusal")
    monkeypatch.setattr("coordinator.store.change.unknown", lambda sentence, **detail: refused)


def any_heartbeat_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was asked before a claim reports its grant missing."""
    monkeypatch.setattr(heartbeats, "is_missing", lambda job, heartbeat: True)


def conflict_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conflict is taken for another's doing, though a client library that sends again makes one of our own write."""
    monkeypatch.setattr("coordinator.store.change.pause", _gives_up)


async def _gives_up(_number: int, trouble: Any, _entropy: Any) -> None:
    if trouble is None:
        raise FleetError(ErrorCode.CONFLICT, "somebody else was first")


Broken = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize(
    ("broken", "world", "faults", "what"),
    [
        (racy_store, "two claims", 0, "two holders"),
        (racy_store, "cancel vs claim", 0, "at the same seq"),
        (blind_lock, "two jobs, one lock", 0, "2 jobs hold lock l"),
        (lock_written_apart, "two jobs, one lock", 0, "lock:l says"),
        (lock_written_apart, "the lock's holder ends vs claim", 0, "lock:l says"),
        (lease_left_open, "renew vs reap", 0, "its renew was answered"),
        (closed_lease_is_renewed, "renew vs reap", 0, "the closed lease"),
        (epoch_never_rises, "renew vs reap", 0, "which was granted already"),
        (epoch_unused_by_a_grant, "reap, then claim vs the old report", 0, "grants term 1 after"),
        (op_not_looked_up, "report vs its repeat elsewhere", 1, "tells that it took effect"),
        (op_not_looked_up, "claim vs its repeat, two jobs", 0, "2 jobs are held by one request"),
        (op_not_looked_up, "cancel, requeue, cancel's repeat", 0, "took effect 2 times"),
        (no_session_check, "report vs another session's", 0, "the holder was ('f1', 's1')"),
        (no_epoch_check, "reap, then claim vs the old report", 0, "was ended by"),
        (projection_overwrites, "sweep vs reap", 0, "the closed lease"),
        (any_heartbeat_misses, "old heartbeat vs claim", 0, "no heartbeat came after its claim"),
        (conflict_is_believed, "cancel vs claim", 1, "was refused each time"),
        (answers_never_in_doubt, "cancel vs claim", 1, "was refused each time"),
    ],
)
def test_a_broken_system_is_caught(
    broken: Broken, world: str, faults: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    found = [str(one) for one in walk(_world(world), faults=faults).found]
    assert any(what in one for one in found), found
