"""Promise 15: the engines of one job never overlap, but for early recoveries, and then for at most the lease TTL.

Decides from when engines began and ended in true time. An overlap is legal where the older term was recovered early
from a holder that could not know (see `early`), and then for at most the TTL.
Silent about whether the engine of an early recovered term did harm: that is promises 3 and 14.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from chaos.checkers.early_recovery import DRIFT, recovered_early
from chaos.checkers.view import View, in_order, view_of
from chaos.history import History, Record, Violation

NAME = "one_engine"


@dataclass(slots=True)
class _Engine:
    begun: Record
    ended: Record | None = None

    @property
    def epoch(self) -> int:
        return int(self.begun.data["leaseEpoch"])

    @property
    def over(self) -> float:
        return self.ended.at if self.ended is not None else inf

    @property
    def shown(self) -> tuple[Record, ...]:
        return (self.begun,) if self.ended is None else (self.begun, self.ended)


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    for job_id, engines in _engines(view).items():
        running: list[_Engine] = []
        for engine in engines:
            running = [other for other in running if other.over > engine.begun.at]
            for other in running:
                over = min(other.over, engine.over)
                if over > engine.begun.at and not _legal(view, job_id, other, engine, over - engine.begun.at):
                    yield _overlap(job_id, other, engine)
            running.append(engine)


def _engines(view: View) -> dict[str, list[_Engine]]:
    engines: dict[str, list[_Engine]] = defaultdict(list)
    running: dict[tuple[str, int, str, int], list[_Engine]] = defaultdict(list)
    for _, record in view.run.engines:
        data = record.data
        key = record.who, data["life"], data["jobId"], data["leaseEpoch"]
        if data["does"] == "begins":
            engine = _Engine(record)
            engines[data["jobId"]].append(engine)
            running[key].append(engine)
        elif running[key]:
            running[key].pop(0).ended = record
    return engines


def _overlap(job_id: str, first: _Engine, second: _Engine) -> Violation:
    over = "the end" if min(first.over, second.over) == inf else f"{min(first.over, second.over):.3f}"
    what = (
        f"{job_id}: the engine of term {first.epoch} ({first.begun.who}) and that of term {second.epoch} "
        f"({second.begun.who}) both ran from {second.begun.at:.3f} to {over}"
    )
    return Violation(NAME, what, in_order(*first.shown, *second.shown))


def _legal(view: View, job_id: str, first: _Engine, second: _Engine, length_s: float) -> bool:
    if first.epoch == second.epoch or length_s > view.run.timer("leaseTtlS", 60.0) * (1 + DRIFT):
        return False
    term = view.docs.terms.get((job_id, min(first.epoch, second.epoch)))
    return not view.stored if term is None else recovered_early(view, term, second.begun.at)
