"""What a live run's history says of times and costs. Verdicts are the checkers'."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf

from chaos.finished import is_finished
from chaos.history import Doc, History, Record
from chaos.percentiles import Percentiles

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
    recoveries: list[Percentiles]
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
    unfinished = [job_id for job_id in acknowledged if job_id not in jobs or not is_finished(jobs[job_id])]
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


def _recoveries(history: History, asks: _Asks, spans: list[tuple[Record, float]]) -> list[Percentiles]:
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
        for back_s in _returns(history, asks, begun.at, over):
            times[BROKER_BACK].append(back_s)
    store_trouble = [begun.at for begun, _ in spans if begun.data["name"] == "store-outage"]
    for record in history.of("down"):
        if record.who.startswith("coordinator:") and record.data["how"] == "killed":
            claimed = asks.first_after(record.at, lambda ask, answer: bool(_granted(ask, answer)))
            if claimed is not None and not any(record.at <= at <= claimed for at in store_trouble):
                times[COORDINATOR_TO_CLAIM].append(claimed - record.at)
    return [Percentiles.of(name, seconds) for name, seconds in times.items()]


def _is_rest_claim(ask: Record) -> bool:
    """Of a factory that would rather use the bus."""
    return ask.data["op"] == "claim" and ask.data["over"] == "rest" and "sessionId" in ask.data["message"]


def _granted(ask: Record, answer: Doc) -> list[Doc]:
    claimed = answer if ask.data["op"] == "claim" else answer.get("next") or {}
    grants: list[Doc] = claimed.get("grants") or []
    return grants


@dataclass(frozen=True)
class _Gone:
    """A holder that was killed, stopped or cut off; `back`: until when."""

    at: float
    how: str
    life: int | None
    back: float


def _next_starts(history: History) -> Iterator[tuple[float, str, float]]:
    """When a holder was gone whose engine was at work, by which kind of record, and when the job's next engine began.

    Where its successor was killed before its engine began, it counts from that on. Jobs with a lock are left out: they
    may wait for another job.
    """
    gone = _gone(history)
    locked = {doc["id"] for doc in history.documents.get("fleet_jobs", ()) if doc.get("lock")}
    claimed = _claims(history)
    runs: dict[str, list[tuple[Record, float]]] = defaultdict(list)
    for begun, ended_at in _engines(history):
        if begun.data["jobId"] not in locked:
            runs[begun.data["jobId"]].append((begun, ended_at))
    for job_id, engines in runs.items():
        for (before, ended_at), (after, _) in itertools.pairwise(engines):
            epochs = range(before.data["leaseEpoch"] + 1, after.data["leaseEpoch"] + 1)
            next_at, _ = claimed.get((job_id, epochs.start), (after.at, ""))
            lost = [
                one
                for one in gone[before.who]
                if before.at <= one.at <= min(ended_at, after.at)
                and one.life in (None, before.data["life"])
                and one.back >= next_at
            ]
            if not epochs or not lost:
                continue
            since = lost[0]
            for epoch in epochs[:-1]:
                claimed_at, who = claimed.get((job_id, epoch), (inf, ""))
                killed = (one for one in gone[who] if claimed_at <= one.at <= after.at and one.how == "down")
                since = next(killed, since)
            yield since.at, since.how, after.at


def _gone(history: History) -> dict[str, list[_Gone]]:
    ends: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record in history.of("resumed", "fault"):
        if record.kind == "resumed":
            ends["paused", record.who].append(record.at)
        elif record.data["does"] == "ends":
            ends["fault", str(record.data["on"])].append(record.at)
    found: dict[str, list[_Gone]] = defaultdict(list)
    for record in history.of("down", "paused", "fault"):
        who = str(record.data["on"]) if record.kind == "fault" else record.who
        if record.kind == "fault" and (record.data["name"], record.data["does"]) != ("cut-off", "begins"):
            continue
        if record.kind == "down" and record.data["how"] != "killed":
            continue
        back = next((at for at in ends[record.kind, who] if at > record.at), inf)
        found[who].append(_Gone(record.at, record.kind, record.data.get("life"), back))
    return found


def _claims(history: History) -> dict[tuple[str, int], tuple[float, str]]:
    """When each term was claimed, where that was seen, and which factory claimed it."""
    who = {
        (event["jobId"], event["leaseEpoch"]): f"factory:{event['data'].get('factoryId')}"
        for event in history.documents.get("fleet_events", ())
        if event["type"] == "claimed"
    }
    seen = {
        (record.data["jobId"], record.data["leaseEpoch"]): record.at
        for record in history.of("seen")
        if record.data["type"] == "claimed"
    }
    return {key: (at, who.get(key, "")) for key, at in seen.items()}


def _engines(history: History) -> list[tuple[Record, float]]:
    """As they began, and when each ended."""
    found: list[tuple[Record, float]] = []
    running: dict[tuple[str, int, str, int], int] = {}
    for record in history.of("engine"):
        data = record.data
        key = record.who, data["life"], data["jobId"], data["leaseEpoch"]
        if data["does"] == "begins":
            running[key] = len(found)
            found.append((record, inf))
        elif key in running:
            begun, _ = found[running[key]]
            found[running.pop(key)] = begun, record.at
    return found


def _returns(history: History, asks: _Asks, low: float, high: float) -> Iterator[float]:
    """Of each factory that lived through the outage and went over REST: until it was answered on the bus again."""
    over_rest = {ask.who for ask, end in asks.answered if low <= end.at <= high and ask.data["over"] == "rest"}
    breaks = [(record.who, record.at) for record in history.of("up", "down", "paused") if record.at > low]
    first: dict[str, float] = {}
    begin = bisect_left(asks.answered, high, key=lambda pair: pair[1].at)
    for ask, end in asks.answered[begin:]:
        if ask.data["over"] == "bus" and ask.at > high:
            first.setdefault(ask.who, end.at)
    for who, at in first.items():
        if who in over_rest and not any(one == who and broke_at <= at for one, broke_at in breaks):
            yield at - high
