"""One path of a walk, told as a history: what each asker saw, and the documents at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from chaos.history import History, Record
from chaos.walk.ground import Laid, seen
from chaos.walk.operations import Operation
from chaos.walk.process import Result
from chaos.walk.shelf import Shelf
from chaos.walk.worlds import Small
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
    shelf: Shelf
    results: dict[Who, Result | None]


def told(world: Small, laid: Laid, steps: Sequence[Step], left: Shelf) -> History:
    """`left`: what the loops of a coordinator made of it, once everybody else was gone."""
    history = History(list(laid.records), {name: list(left.docs(name)) for name in TOLD})
    asks: dict[Who, int] = {}
    ended: set[Who] = set()
    shelf, at_s = laid.shelf, world.ground.at_s
    for step in steps:
        at_s += STEP_S
        for who, result in step.results.items():
            if who not in asks and (who == step.who or result is not None):
                asks[who] = len(history.records)
                _note(history, at_s, world.operation(who), None, asks[who])
        history.records.extend(seen(shelf, step.shelf, at_s))
        shelf = step.shelf
        for who, result in step.results.items():
            if result is not None and who not in ended:
                ended.add(who)
                _note(history, at_s, world.operation(who), result, asks[who])
    history.note(at_s, "calm", "world")
    over_s = world.ground.at_s + RECOVERED_AFTER_S
    history.records.extend(seen(shelf, left, over_s))
    history.note(over_s, "converged", "world")
    return history


def _note(history: History, at_s: float, operation: Operation, result: Result | None, ask: int) -> None:
    if operation.op is None or (result is not None and result.kind not in SAYS):
        return
    if result is None:
        history.records.append(Record(at_s, "asked", operation.who, operation.asked(ask)))
    else:
        data = {"ask": ask, SAYS[result.kind]: orjson.loads(result.text)}
        history.records.append(Record(at_s, result.kind, operation.who, data))
