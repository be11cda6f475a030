"""One path of a walk, told as a history: what each asker saw, and the documents at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from chaos.history import History, Record
from chaos.walk.operations import Operation
from chaos.walk.process import OpResult
from chaos.walk.start_state import Laid, seen
from chaos.walk.store_value import StoreValue
from chaos.walk.worlds import SmallWorld
from coordinator.store.port import EVENTS, FACTORIES, JOBS, LEASES, RUNS

STEP_S = 0.001
RECOVERED_AFTER_S = 200.0
TOLD = (JOBS, EVENTS, RUNS, LEASES, FACTORIES)

Who = tuple[int, int]
"""A coordinator, and which of its operations."""

SAYS = {"answered": "answer", "refused": "error", "unanswered": "why"}


class Step(NamedTuple):
    """Who took it, and how things stood afterwards."""

    who: Who
    stored: StoreValue
    results: dict[Who, OpResult | None]


def told(world: SmallWorld, laid: Laid, steps: Sequence[Step], left: StoreValue) -> History:
    """`left`: what the loops of a coordinator made of it, once everybody else was gone."""
    history = History(list(laid.records), {name: list(left.docs(name)) for name in TOLD})
    asks: dict[Who, int] = {}
    ended: set[Who] = set()
    stored, at_s = laid.stored, world.start_state.at_s
    for step in steps:
        at_s += STEP_S
        for who, result in step.results.items():
            if who not in asks and (who == step.who or result is not None):
                asks[who] = len(history.records)
                _note(history, at_s, world.operation(who), None, asks[who])
        history.records.extend(seen(stored, step.stored, at_s))
        stored = step.stored
        for who, result in step.results.items():
            if result is not None and who not in ended:
                ended.add(who)
                _note(history, at_s, world.operation(who), result, asks[who])
    history.note(at_s, "calm", "world")
    over_s = world.start_state.at_s + RECOVERED_AFTER_S
    history.records.extend(seen(stored, left, over_s))
    history.note(over_s, "converged", "world")
    return history


def _note(history: History, at_s: float, operation: Operation, result: OpResult | None, ask: int) -> None:
    if operation.op is None or (result is not None and result.kind not in SAYS):
        return
    if result is None:
        history.records.append(Record(at_s, "asked", operation.who, operation.asked(ask)))
    else:
        data = {"ask": ask, SAYS[result.kind]: orjson.loads(result.text)}
        history.records.append(Record(at_s, result.kind, operation.who, data))
