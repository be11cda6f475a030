"""What is there before a walk begins, laid by the real handlers; and coordinators that stand on it."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic.alias_generators import to_camel

from bus.none import NoBus
from chaos.history import Record
from chaos.walk.operations import PRODUCT, Doc, Operation, act, claim, hello, start, submit
from chaos.walk.store_value import StoreValue, finished
from coordinator.assembly import assemble
from coordinator.context import Context
from coordinator.handlers import enrolment
from coordinator.store.port import EVENTS, FACTORIES, JOBS, Indefinite, Store
from coordinator.term_logs import LogFiles
from runtime.clock import EPOCH
from runtime.entropy import Entropy
from runtime.settings import Flags, Timers
from schemas import ids
from schemas.base import Schema
from schemas.factory import FactoryDoc
from schemas.ids import JobKey
from schemas.job import Job


@dataclass(frozen=True)
class Still:
    """Time that stands still: what lies between two moments is another walk."""

    at_s: float

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.at_s)

    def boot_s(self) -> float:
        return self.at_s


@dataclass(frozen=True)
class StartState:
    """Two factories, some jobs, and who held which since 0 s. The walk is at `at_s`.

    `projected` False: the coordinator died right after the grants, so that their documents are missing.
    """

    at_s: float
    jobs: tuple[str, ...] = ("one",)
    lock: str | None = None
    held: tuple[str, ...] = ()
    started: bool = True
    projected: bool = True
    cancelled: bool = False
    budgets: bool = False


@dataclass(frozen=True)
class Laid:
    """The start state as real handlers made it, with what they were asked for it."""

    stored: StoreValue
    records: tuple[Record, ...]
    factories: tuple[FactoryDoc, ...]
    jobs: tuple[Job, ...]

    def context(self, store: Store, at_s: float, *, budgets: bool, unaware: frozenset[JobKey] = frozenset()) -> Context:
        """A coordinator that has read what there was, but for some jobs."""
        ctx = _coordinator(store, at_s, budgets=budgets)
        for factory in self.factories:
            ctx.roster.note(factory, heard=False)
        for job in self.jobs:
            if job.key not in unaware:
                ctx.ready.note(job)
        return ctx


def _coordinator(store: Store, at_s: float, *, budgets: bool) -> Context:
    made = assemble(
        store,
        NoBus(),
        LogFiles(Path("unused")),
        clock=Still(at_s),
        entropy=Entropy(random.Random(1)),
        flags=Flags(budgets=budgets),
        alone=False,
    )
    return made.ctx


class _Unprojected(StoreValue):
    async def project(self, derived: Any) -> None:
        raise Indefinite("the coordinator died before")


def lay(start_state: StartState, *, atomic_then: bool) -> Laid:
    stored = (StoreValue if start_state.projected else _Unprojected)(atomic_then=atomic_then)
    ctx = _coordinator(stored, 0.0, budgets=start_state.budgets)
    records = [_fleet(start_state)]

    def ask(operation: Operation) -> None:
        before = stored.copy()
        doc = _doc(finished(operation.act(ctx)))
        asked = Record(0.0, "asked", operation.who, operation.asked(len(records)))
        answered = Record(0.0, "answered", operation.who, {"ask": len(records), "answer": doc})
        records.extend((asked, *seen(before, stored, 0.0), answered))

    for factory in ("f1", "f2"):
        doc = FactoryDoc(id=factory, product_id=PRODUCT, products=(PRODUCT,))
        finished(enrolment.enroll(ctx, doc))
        said = {"factoryId": factory, "products": [PRODUCT], "capabilities": []}
        records.append(Record(0.0, "enrolled", "world", said))
        ask(hello(0, factory, 1))
    for name in start_state.jobs:
        ask(submit(0, name, lock=start_state.lock, budget="{usd: 3}" if start_state.budgets else None))
    for name in start_state.held:
        ask(claim(0, "f1", f"r-{name}", name))
        if start_state.started:
            ask(start(0, "f1", name))
    if start_state.cancelled:
        ask(act(0, "cancel", start_state.held[0], "k0"))
    stored = stored.copy()
    return Laid(
        stored,
        tuple(records),
        tuple(FactoryDoc.model_validate(doc) for doc in stored.docs(FACTORIES)),
        tuple(Job.model_validate(doc) for doc in stored.docs(JOBS) if "stage" in doc),
    )


def seen(before: StoreValue, after: StoreValue, at: float) -> list[Record]:
    """The events whose commit lies between the two."""
    seqs = {job["id"]: job["seq"] for job in before.docs(JOBS) if "stage" in job}
    jobs = [job for job in after.docs(JOBS) if "stage" in job and job["seq"] > seqs.get(job["id"], 0)]
    fresh = {event["id"]: event for event in after.docs(EVENTS)}
    fresh |= {event["id"]: event for job in jobs for event in job["outbox"]}
    records = []
    for job in jobs:
        for seq in range(seqs.get(job["id"], 0) + 1, job["seq"] + 1):
            event = fresh.get(ids.event_id(job["id"], seq), {})
            names = ("productId", "jobId", "seq", "type", "leaseEpoch")
            records.append(Record(at, "seen", "world", {name: event.get(name) for name in names}))
    return records


def _fleet(start_state: StartState) -> Record:
    timers = {to_camel(name): value for name, value in asdict(Timers()).items()}
    return Record(0.0, "fleet", "world", {"timers": timers, "budgets": start_state.budgets})


def _doc(answer: Schema | Doc | None) -> Doc | None:
    return answer.to_doc() if isinstance(answer, Schema) else answer
