"""What a live run's history says of times and costs. Verdicts are the checkers'."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf

from chaos.history import Doc, History, Record
from chaos.spread import Spread

FINISHED = frozenset({"shipped", "failed", "dead_letter"})
KILLED_TO_START = "holder killed to next start"
KILLED_TO_START_REST = "holder killed to next start, no broker"
STOPPED_TO_START = "holder stopped to next start"
CUT_OFF_TO_START = "holder cut off to next start"
BROKER_TO_REST = "broker killed to first REST claim"
FROZEN_TO_REST = "broker frozen to first REST claim"
BROKER_BACK = "broker back to back on the bus"
COORDINATOR_TO_CLAIM = "coordinator killed to next claim"


@dataclass(frozen=True)
class Cost:
    """Of a span of time: jobs that were started, offers that were published, claims that somebody else had won."""

    started: int
    offers: int
    conflicts: int

    @property
    def offers_per_start(self) -> float:
        return self.offers / max(1, self.started)

    @property
    def conflicts_per_start(self) -> float:
        return self.conflicts / max(1, self.started)


@dataclass(frozen=True)
class Measured:
    """`steady`: of the time without faults, where the scenario has one. `lost`: acknowledged, and not finished."""

    jobs: int
    finished: int
    lost: int
    faults: Counter[str]
    recoveries: list[Spread]
    whole: Cost
    steady: Cost | None


@dataclass
class _Asks:
    """Answered asks in the order of their answers, and what became of claims."""

    answered: list[tuple[Record, Record]] = field(default_factory=list)
    conflicts: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, history: History) -> _Asks:
        found = cls()
        asked: dict[str, Record] = {}
        for record in history.of("asked", "answered", "refused"):
            if record.kind == "asked":
                asked[record.data["ask"]] = record
                continue
            ask = asked.get(record.data["ask"])
            if ask is None:
                continue
            if record.kind == "answered":
                found.answered.append((ask, record))
            elif ask.data["op"] == "claim" and record.data["error"]["code"] == "conflict":
                found.conflicts.append(record.at)
        return found

    def first_after(self, at: float, wanted: Callable[[Record, Doc], bool]) -> float | None:
        """When the first of these that was asked after `at` was answered."""
        times = (end.at for ask, end in self.answered if ask.at > at and wanted(ask, end.data["answer"]))
        return next(times, None)


def measured(history: History) -> Measured:
    asks = _Asks.of(history)
    spans = _spans(history)
    whole = (0.0, history.records[-1].at if history.records else 0.0)
    steady = [(begun.at, over) for begun, over in spans if begun.kind == "phase" and begun.data["name"] == "steady"]
    jobs = {doc["id"]: doc for doc in history.documents.get("fleet_jobs", ()) if "stage" in doc}
    acknowledged = {end.data["answer"]["jobId"] for ask, end in asks.answered if ask.data["op"] == "submit"}
    unfinished = [job_id for job_id in acknowledged if jobs.get(job_id, {}).get("stage") not in FINISHED]
    return Measured(
        jobs=len(acknowledged),
        finished=len(acknowledged) - len(unfinished),
        lost=len(unfinished),
        faults=_faults(history),
        recoveries=_recoveries(history, asks, spans),
        whole=_cost(history, asks, whole),
        steady=_cost(history, asks, steady[0]) if steady else None,
    )


def _faults(history: History) -> Counter[str]:
    counts: Counter[str] = Counter()
    for record in history.of("fault", "down", "paused"):
        if record.kind == "fault" and record.data["does"] != "ends":
            counts[record.data["name"]] += 1
        elif record.kind == "paused":
            counts[f"{record.who.partition(':')[0]} stopped"] += 1
        elif record.kind == "down" and record.data["how"] in ("killed", "drained"):
            counts[f"{record.who.partition(':')[0]} {record.data['how']}"] += 1
    return counts


def _spans(history: History) -> list[tuple[Record, float]]:
    """Each fault or phase that lasted, and when it was over."""
    found: list[tuple[Record, float]] = []
    begun: dict[tuple[str, str, str], Record] = {}
    for record in history.of("fault", "phase"):
        key = record.kind, record.data["name"], str(record.data.get("on"))
        if record.data["does"] == "begins":
            begun[key] = record
        elif record.data["does"] == "ends" and key in begun:
            found.append((begun.pop(key), record.at))
    return found


def _cost(history: History, asks: _Asks, span: tuple[float, float]) -> Cost:
    low, high = span
    return Cost(
        started=sum(low <= record.at <= high for record in history.of("seen") if record.data["type"] == "started"),
        offers=sum(low <= record.at <= high for record in history.of("offered")),
        conflicts=sum(low <= at <= high for at in asks.conflicts),
    )


def _recoveries(history: History, asks: _Asks, spans: list[tuple[Record, float]]) -> list[Spread]:
    times: dict[str, list[float]] = defaultdict(list)
    outages = [(begun, over) for begun, over in spans if begun.data["name"] == "bus-outage"]
    for gone_at, how, start_at in _next_starts(history):
        no_broker = any(begun.at <= gone_at <= over for begun, over in outages)
        name = {"paused": STOPPED_TO_START, "fault": CUT_OFF_TO_START}.get(how)
        times[name or (KILLED_TO_START_REST if no_broker else KILLED_TO_START)].append(start_at - gone_at)
    for begun, over in outages:
        claimed = asks.first_after(begun.at, lambda ask, answer: _is_rest_claim(ask) and bool(answer.get("grants")))
        if claimed is not None and claimed <= over:
            frozen = begun.data.get("signal") == "SIGSTOP"
            times[FROZEN_TO_REST if frozen else BROKER_TO_REST].append(claimed - begun.at)
        times[BROKER_BACK] += _returns(history, asks, begun.at, over)
    store_trouble = [begun.at for begun, _ in spans if begun.data["name"] == "store-outage"]
    for record in history.of("down"):
        if record.who.startswith("coordinator:") and record.data["how"] == "killed":
            claimed = asks.first_after(record.at, lambda ask, answer: bool(_granted(ask, answer)))
            if claimed is not None and not any(record.at <= at <= claimed for at in store_trouble):
                times[COORDINATOR_TO_CLAIM].append(claimed - record.at)
    return [Spread.of(name, seconds) for name, seconds in times.items()]


def _is_rest_claim(ask: Record) -> bool:
    """Of a factory that would rather use the bus."""
    return ask.data["op"] == "claim" and ask.data["over"] == "rest" and "sessionId" in ask.data["message"]


def _granted(ask: Record, answer: Doc) -> list[Doc]:
    claimed = answer if ask.data["op"] == "claim" else answer.get("next") or {}
    grants: list[Doc] = claimed.get("grants") or []
    return grants


def _next_starts(history: History) -> Iterator[tuple[float, str, float]]:
    """When a holder was gone, by which kind of record, and when the next term's engine began. Jobs with a lock are left
    out: they may wait for another job.
    """
    gone: dict[str, list[tuple[float, str, int | None]]] = defaultdict(list)
    for record in history.of("down", "paused", "fault"):
        if record.kind == "fault" and record.data["name"] == "cut-off" and record.data["does"] == "begins":
            gone[record.data["on"]].append((record.at, record.kind, None))
        elif record.kind == "paused" or (record.kind == "down" and record.data["how"] == "killed"):
            gone[record.who].append((record.at, record.kind, record.data["life"]))
    locked = {doc["id"] for doc in history.documents.get("fleet_jobs", ()) if doc.get("lock")}
    begins: dict[str, list[Record]] = defaultdict(list)
    for record in history.of("engine"):
        if record.data["does"] == "begins" and record.data["jobId"] not in locked:
            begins[record.data["jobId"]].append(record)
    for engines in begins.values():
        for before, after in itertools.pairwise(engines):
            if before.data["leaseEpoch"] + 1 != after.data["leaseEpoch"]:
                continue
            between = [
                (at, how)
                for at, how, life in gone[before.who]
                if before.at <= at <= after.at and life in (None, before.data["life"])
            ]
            if between:
                yield *between[0], after.at


def _returns(history: History, asks: _Asks, low: float, high: float) -> Iterator[float]:
    """Of each factory that lived through the outage and went over REST: until it was answered on the bus again."""
    came = {record.who for record in history.of("up") if record.at > low}
    over_rest = {ask.who for ask, end in asks.answered if low <= end.at <= high and ask.data["over"] == "rest"} - came
    ends = {record.who: record.at for record in history.of("down", "paused") if record.at > low}
    first: dict[str, float] = {}
    begin = bisect_left(asks.answered, high, key=lambda pair: pair[1].at)
    for ask, end in asks.answered[begin:]:
        if ask.data["over"] == "bus" and ask.at > high:
            first.setdefault(ask.who, end.at)
    for who, at in first.items():
        if who in over_rest and ends.get(who, inf) > at:
            yield at - high
