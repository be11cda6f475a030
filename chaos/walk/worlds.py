"""The small worlds: a start state, and a handful of operations that meet on it, of coordinators that share a store."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from chaos.walk.operations import (
    Operation,
    act,
    checkpoint,
    claim,
    heartbeat,
    hello,
    pause,
    reap,
    release,
    renew,
    report,
    start,
    submit,
    sweep,
)
from chaos.walk.start_state import StartState
from coordinator.store.port import FACTORIES
from schemas.outcome import Outcome

ALIVE_S = 10.0  # of a term that began at 0: it needs no renewal yet
UNSTARTED_S = 40.0  # it should have started
EXPIRED_S = 100.0  # it was not renewed


@dataclass(frozen=True)
class SmallWorld:
    """`moves`: containers that an operation may write to beyond those of jobs and their derived documents.
    `unaware`: jobs that a coordinator's index has not heard of yet. `tries_may_win_two`: so that
    two tries of one claim win two jobs, of which the factory gives one back.
    """

    name: str
    start_state: StartState
    operations: tuple[Operation, ...]
    atomic_then: bool = False
    faults: int = 1
    deeper: int = 2
    only_deeper: bool = False
    moves: frozenset[str] = frozenset()
    unaware: tuple[tuple[int, str], ...] = ()
    tries_may_win_two: bool = False

    def operation(self, who: tuple[int, int]) -> Operation:
        """By its coordinator, and which of that one's it is."""
        return self.of(who[0])[who[1]]

    def of(self, coordinator: int) -> list[Operation]:
        return [operation for operation in self.operations if operation.at == coordinator]

    @property
    def coordinators(self) -> int:
        return max(operation.at for operation in self.operations) + 1


EMPTY = StartState(ALIVE_S, jobs=())
QUEUED = StartState(ALIVE_S)
TWO_BEHIND_A_LOCK = StartState(ALIVE_S, jobs=("one", "two"), lock="l")
ONE_HOLDS_THE_LOCK = StartState(EXPIRED_S, jobs=("one", "two"), lock="l", held=("one",))
EXPIRED = StartState(EXPIRED_S, held=("one",))
ALIVE = StartState(ALIVE_S, held=("one",))
UNSTARTED = StartState(UNSTARTED_S, held=("one",), started=False)
CANCELLED = StartState(EXPIRED_S, held=("one",), cancelled=True)
RICH = StartState(ALIVE_S, budgets=True)
MONEY = StartState(EXPIRED_S, jobs=("one", "two"), held=("one",), budgets=True)
TORN = StartState(EXPIRED_S, held=("one",), started=False, projected=False)

PAIRS: tuple[SmallWorld, ...] = (
    SmallWorld("two claims", QUEUED, (claim(0, "f1"), claim(1, "f2")), faults=2, deeper=3),
    SmallWorld("two claims of one coordinator", QUEUED, (claim(0, "f1"), claim(0, "f2"))),
    SmallWorld("claim vs its repeat elsewhere", QUEUED, (claim(0), claim(1)), faults=2, deeper=3),
    SmallWorld(
        "claim vs its repeat, two jobs", StartState(ALIVE_S, ("one", "two")), (claim(0, job=None), claim(1, job=None))
    ),
    SmallWorld(
        "claim vs its repeat, a job unheard of",
        StartState(ALIVE_S, ("one", "two")),
        (claim(0, job=None), claim(1, job=None)),
        unaware=((0, "one"), (1, "two")),
        tries_may_win_two=True,
    ),
    SmallWorld("renew vs reap", EXPIRED, (renew(0), reap(1)), faults=2, deeper=3),
    SmallWorld("start vs reap", UNSTARTED, (start(0), reap(1)), faults=2, deeper=3),
    SmallWorld("report vs reap", EXPIRED, (report(0), reap(1)), faults=2, deeper=3),
    SmallWorld("report vs its repeat elsewhere", ALIVE, (report(0), report(1)), faults=2, deeper=3),
    SmallWorld("report vs another session's", ALIVE, (report(0), report(1, session_no=2))),
    SmallWorld("report vs release", ALIVE, (report(0), release(1)), faults=2),
    SmallWorld("cancel vs report", ALIVE, (act(0), report(1, outcome=Outcome.ENGINE_FAILED)), faults=2, deeper=3),
    SmallWorld("cancel vs release", ALIVE, (act(0), release(1)), faults=2, deeper=3),
    SmallWorld("cancel vs claim", QUEUED, (act(0), claim(1)), faults=2, deeper=3),
    SmallWorld("cancel vs reap", EXPIRED, (act(0), reap(1)), faults=2, deeper=3),
    SmallWorld(
        "two jobs, one lock", TWO_BEHIND_A_LOCK, (claim(0, "f1", job="one"), claim(1, "f2", job="two")), faults=2
    ),
    SmallWorld("the lock's holder ends vs claim", ONE_HOLDS_THE_LOCK, (report(0), claim(1, "f2", job="two")), faults=2),
    SmallWorld("reap vs reap", EXPIRED, (reap(0), reap(1)), faults=2),
    SmallWorld("two jobs, one ledger", MONEY, (report(0), claim(1, "f2", job="two"))),
    SmallWorld("sweep vs reap", TORN, (sweep(0), reap(1))),
    SmallWorld("hello vs report of the old session", ALIVE, (hello(0), report(1)), moves=frozenset({FACTORIES})),
    SmallWorld("hello vs claim of the old session", QUEUED, (hello(0), claim(1)), moves=frozenset({FACTORIES})),
    SmallWorld("checkpoint vs reap", EXPIRED, (checkpoint(0), reap(1)), faults=2, deeper=3),
    SmallWorld("checkpoint vs report", ALIVE, (checkpoint(0), report(1)), faults=2),
    SmallWorld("cancel vs preempt", ALIVE, (act(0), act(1, "preempt", key="k2")), faults=2, deeper=3),
    SmallWorld("pause vs claim", RICH, (pause(0), claim(1)), faults=2, deeper=3),
    SmallWorld("heartbeat vs claim", QUEUED, (heartbeat(0, ask_no=6), claim(1)), moves=frozenset({FACTORIES})),
    SmallWorld("old heartbeat vs claim", QUEUED, (heartbeat(0, ask_no=3), claim(1)), moves=frozenset({FACTORIES})),
    SmallWorld("heartbeat vs reap", EXPIRED, (heartbeat(0, holds="one"), reap(1)), moves=frozenset({FACTORIES})),
    SmallWorld("submit vs its repeat elsewhere", EMPTY, (submit(0, "one"), submit(1, "one")), faults=2, deeper=3),
    SmallWorld(
        "submit vs another under its key", EMPTY, (submit(0, "one"), submit(1, "one", "do that")), faults=2, deeper=3
    ),
)

THREES: tuple[SmallWorld, ...] = (
    SmallWorld("reap, then claim vs the old report", EXPIRED, (reap(0), claim(1, "f1"), report(2))),
    SmallWorld(
        "report, its repeat, reap and claim",
        EXPIRED,
        (report(0), report(1), reap(2), claim(3, "f2")),
        faults=0,
        deeper=1,
    ),
    SmallWorld("claim, its repeat and another", QUEUED, (claim(0, "f1"), claim(1, "f1"), claim(2, "f2"))),
    SmallWorld("renew, reap and claim", EXPIRED, (renew(0), reap(1), claim(2, "f2"))),
    SmallWorld("cancel, requeue, cancel's repeat", QUEUED, (act(0), act(1, "requeue", key="k2"), act(2))),
    SmallWorld("cancelled: release vs reap vs claim", CANCELLED, (release(0), reap(1), claim(2, "f2"))),
    SmallWorld(
        "report, reap and a claim behind the lock", ONE_HOLDS_THE_LOCK, (report(0), reap(1), claim(2, "f2", job="two"))
    ),
    SmallWorld("report, its repeat and a sweep", ALIVE, (report(0), report(1), sweep(2))),
    SmallWorld("pause, claim and its repeat", RICH, (pause(0), claim(1), claim(2))),
    SmallWorld(
        "two claims behind a lock, one repeated", TWO_BEHIND_A_LOCK, (claim(0), claim(1), claim(2, "f2", job="two"))
    ),
    SmallWorld("sweep, renew and reap", TORN, (sweep(0), renew(1), reap(2))),
)


def _combined(
    start_state: StartState, name: str, operations: tuple[Operation, ...], of: int, **bounds: Any
) -> Iterator[SmallWorld]:
    """Every choice of `of` operations, each asked of another coordinator."""
    for chosen in itertools.combinations(operations, of):
        placed = tuple(operation.to(at) for at, operation in enumerate(chosen))
        names = ", ".join(operation.name for operation in chosen)
        yield SmallWorld(f"{name}: {names}", start_state, placed, **bounds)


def _with_both_stores(worlds: tuple[SmallWorld, ...]) -> Iterator[SmallWorld]:
    """Once with an outbox to project from, once with derived documents in the same transaction."""
    for world in worlds:
        yield world
        if world.start_state.projected:
            yield replace(world, name=f"{world.name} (one transaction)", atomic_then=True)


AT_A_HELD_JOB = (renew(0), reap(0), report(0), act(0), claim(0, "f1"), claim(0, "f2"), claim(0, "f2", "r3", "two"))

WORLDS: tuple[SmallWorld, ...] = (
    *_with_both_stores(PAIRS),
    *_with_both_stores(THREES),
    *_combined(ONE_HOLDS_THE_LOCK, "held and expired", AT_A_HELD_JOB, 3, faults=1, deeper=2, atomic_then=True),
    *_combined(ONE_HOLDS_THE_LOCK, "held and expired", AT_A_HELD_JOB, 4, only_deeper=True, deeper=0, atomic_then=True),
)
