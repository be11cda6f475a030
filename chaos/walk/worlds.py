"""The small worlds: what is there before, and a handful of operations that meet. They are asked of the real handlers
and loops, of coordinators that share one store.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from chaos.history import Record
from chaos.walk.shelf import Shelf, finished
from coordinator.context import Context, make_context
from coordinator.handlers import actions, claims, factories, intake, terms
from coordinator.loops.reaper import Reaper
from coordinator.loops.sweeper import Sweeper
from coordinator.store.port import FACTORIES, JOBS, Indefinite, Store
from coordinator.transact import Applied
from runtime.clock import EPOCH
from runtime.entropy import Entropy
from runtime.settings import Flags
from schemas import ids
from schemas.base import Schema
from schemas.factory import FactoryDoc
from schemas.ids import JobKey
from schemas.job import Engine, Job, Outcome, Result
from schemas.messages import (
    ClaimRequest,
    HeartbeatRequest,
    HelloRequest,
    ReleaseRequest,
    RenewRequest,
    ReportRequest,
    StartRequest,
)

PRODUCT = "shop"
OPERATOR = "operator:ann"
ALIVE_S = 10.0  # of a term that began at 0: it needs no renewal yet
UNSTARTED_S = 40.0  # it should have started
EXPIRED_S = 100.0  # it was not renewed

Doc = dict[str, Any]


@dataclass(frozen=True)
class Still:
    """Time that stands still: what lies between two moments is another walk."""

    at_s: float

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.at_s)

    def boot_s(self) -> float:
        return self.at_s


@dataclass(frozen=True)
class Operation:
    """`at`: the coordinator that is asked. `op_id`: that of the event that it leaves. `after`: begun only then."""

    name: str
    at: int
    act: Callable[[Context], Awaitable[Schema | Doc | None]]
    who: str = "coordinator"
    op: str | None = None
    message: Doc = field(default_factory=dict)
    op_id: str | None = None
    after: tuple[str, ...] = ()

    def to(self, at: int) -> Operation:
        return replace(self, at=at)

    def then(self, *after: str) -> Operation:
        return replace(self, after=after)


@dataclass(frozen=True)
class Ground:
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
class Small:
    """`moves`: containers that an operation may write to beyond those of jobs and their derived documents.
    `unaware`: jobs that a coordinator's index has not heard of yet.
    """

    name: str
    ground: Ground
    operations: tuple[Operation, ...]
    atomic_then: bool = False
    faults: int = 1
    deeper: int = 2
    only_deeper: bool = False
    moves: frozenset[str] = frozenset()
    unaware: tuple[tuple[int, str], ...] = ()

    @property
    def coordinators(self) -> int:
        return max(operation.at for operation in self.operations) + 1


def job_key(name: str) -> JobKey:
    return JobKey(PRODUCT, ids.job_id_for(PRODUCT, name))


# What can be asked. Everything that the term at the start is named by is known before it is made.


def _factory(factory: str, session_no: int = 1) -> Doc:
    return {"factory_id": factory, "session_id": f"s{session_no}"}


def _term(factory: str, job: str, epoch: int, session_no: int) -> Doc:
    key = job_key(job)
    return {
        **_factory(factory, session_no),
        "ask_no": 5,
        "product_id": key.product_id,
        "job_id": key.job_id,
        "lease_epoch": epoch,
    }


def _said(request: Any, name: str, at: int, handler: Callable[[Context, Any], Awaitable[Any]], op: str) -> Operation:
    return Operation(
        f"{name} by {request.factory_id}",
        at,
        lambda ctx: handler(ctx, request),
        f"factory:{request.factory_id}",
        op,
        request.to_doc(),
    )


def claim(at: int, factory: str = "f1", request: str = "r2", job: str | None = "one", session_no: int = 1) -> Operation:
    """Of one named job, or (None) of whatever is best."""
    named = {"product_id": PRODUCT, "job_id": job_key(job).job_id} if job else {}
    ask = ClaimRequest(**_factory(factory, session_no), session_no=session_no, ask_no=4, request_id=request, **named)
    op_id = ids.claim_op(factory, session_no, f"s{session_no}", request)
    name = f"claim of {job or 'the best'}"
    return replace(_said(ask, name, at, claims.claim, "claim"), op_id=op_id)


def renew(at: int, factory: str = "f1", job: str = "one", epoch: int = 1) -> Operation:
    return _said(RenewRequest(**_term(factory, job, epoch, 1)), "renew", at, terms.renew, "renew")


def start(at: int, factory: str = "f1", job: str = "one", epoch: int = 1) -> Operation:
    request = StartRequest(**_term(factory, job, epoch, 1))
    return replace(_said(request, "start", at, terms.start, "start"), op_id=ids.start_op(request.job_id, epoch))


def report(
    at: int,
    factory: str = "f1",
    job: str = "one",
    epoch: int = 1,
    session_no: int = 1,
    outcome: Outcome = Outcome.OK,
) -> Operation:
    request = ReportRequest(**_term(factory, job, epoch, session_no), result=Result(outcome=outcome))
    said = _said(request, f"report {outcome} of session {session_no}", at, terms.report, "report")
    return replace(said, op_id=ids.end_op(request.job_id, epoch))


def release(at: int, factory: str = "f1", job: str = "one", epoch: int = 1) -> Operation:
    request = ReleaseRequest(**_term(factory, job, epoch, 1))
    return replace(_said(request, "release", at, terms.release, "release"), op_id=ids.end_op(request.job_id, epoch))


def hello(at: int, factory: str = "f1", session_no: int = 2) -> Operation:
    request = HelloRequest(**_hello(factory, session_no), takeover=True)
    return _said(request, f"hello of session {session_no}", at, factories.hello, "hello")


def _hello(factory: str, session_no: int) -> Doc:
    return {
        **_factory(factory, session_no), "session_no": session_no, "ask_no": 1, "seat_limit": 2,
        "engines": (Engine.SHELL,),
    }  # fmt: skip


def heartbeat(at: int, factory: str = "f1", ask_no: int = 6) -> Operation:
    """One that names no term."""
    request = HeartbeatRequest(**_factory(factory), session_no=1, ask_no=ask_no, seat_limit=2)
    return _said(request, f"heartbeat {ask_no}", at, factories.heartbeat, "heartbeat")


def act(at: int, action: str = "cancel", job: str = "one", key: str = "k1") -> Operation:
    job_ = job_key(job)

    async def asked(ctx: Context) -> Doc:
        return _done(await actions.act(ctx, job_, action, OPERATOR, key))

    message = {"productId": PRODUCT, "jobId": job_.job_id, "action": action, "idempotencyKey": key}
    return Operation(action, at, asked, OPERATOR, "act", message, ids.action_op(action, OPERATOR, key))


def _done(applied: Applied) -> Doc:
    return {
        "jobId": applied.job.id,
        "stage": applied.event.to_stage,
        "opId": applied.event.op_id,
        "repeated": applied.repeated,
    }


def reap(at: int) -> Operation:
    async def run(ctx: Context) -> None:
        await Reaper(ctx).run_once(ctx.clock.now())

    return Operation("reap", at, run)


def sweep(at: int) -> Operation:
    async def run(ctx: Context) -> None:
        await Sweeper(ctx).run_once(ctx.clock.now())

    return Operation("sweep", at, run)


# What is there before.


@dataclass(frozen=True)
class Laid:
    """The ground as laid by real handlers, with what they were asked for it."""

    shelf: Shelf
    records: tuple[Record, ...]
    factories: tuple[FactoryDoc, ...]
    jobs: tuple[Job, ...]

    def context(self, store: Store, at_s: float, *, budgets: bool, unaware: frozenset[JobKey] = frozenset()) -> Context:
        """A coordinator that has read what there was, but for some jobs."""
        ctx = make_context(
            store,
            Still(at_s),
            Entropy(random.Random(1)),
            flags=Flags(budgets=budgets),
        )
        for factory in self.factories:
            ctx.roster.note(factory, heard=False)
        for job in self.jobs:
            if job.key not in unaware:
                ctx.ready.note(job)
        return ctx


class _Unprojected(Shelf):
    async def project(self, derived: Any) -> None:
        raise Indefinite("the coordinator died before")


def lay(world: Small) -> Laid:
    ground = world.ground
    shelf = (Shelf if ground.projected else _Unprojected)(atomic_then=world.atomic_then)
    ctx = make_context(shelf, Still(0.0), Entropy(random.Random(1)), flags=Flags(budgets=ground.budgets))
    records: list[Record] = []

    def ask(operation: Operation) -> None:
        answer = finished(operation.act(ctx))
        doc = answer.to_doc() if isinstance(answer, Schema) else answer
        records.extend(answered(len(records), 0.0, operation, "answered", {"answer": doc}))

    for factory in ("f1", "f2"):
        finished(factories.enroll(ctx, FactoryDoc(id=factory, product_id=PRODUCT, products=(PRODUCT,))))
        ask(replace(hello(0, factory, 1)))
    for name in ground.jobs:
        ask(_submit(name, ground))
    for name in ground.held:
        ask(claim(0, "f1", f"r-{name}", name))
        if ground.started:
            ask(start(0, "f1", name))
    if ground.cancelled:
        ask(act(0, "cancel", ground.held[0], "k0"))
    shelf = shelf.copy()
    return Laid(
        shelf,
        tuple(records),
        tuple(FactoryDoc.model_validate(doc) for doc in shelf.docs(FACTORIES)),
        tuple(Job.model_validate(doc) for doc in shelf.docs(JOBS) if "stage" in doc),
    )


def _submit(name: str, ground: Ground) -> Operation:
    keys = {"engine": "shell", "lock": ground.lock, "budget": "{usd: 3}" if ground.budgets else None}
    front = "".join(f"{key}: {value}\n" for key, value in keys.items() if value)
    submission = intake.Submission(f"---\n{front}---\n{name}\n".encode(), PRODUCT, name)

    async def asked(ctx: Context) -> Doc:
        job = (await intake.submit(ctx, submission, OPERATOR)).job
        return {"jobId": job.id, "stage": str(job.stage), "opId": ids.submit_op(name), "repeated": False}

    message = {"productId": PRODUCT, "idempotencyKey": name, "manifestSha256": ""}
    return Operation(f"submit {name}", 0, asked, OPERATOR, "submit", message)


def answered(number: int, at: float, operation: Operation, kind: str, data: Doc) -> list[Record]:
    asked = {"ask": number, "op": operation.op, "over": "direct", "to": f"c{operation.at + 1}"}
    return [
        Record(at, "asked", operation.who, asked | {"message": operation.message}),
        Record(at, kind, operation.who, {"ask": number, **data}),
    ]


QUEUED = Ground(ALIVE_S)
TWO_BEHIND_A_LOCK = Ground(ALIVE_S, jobs=("one", "two"), lock="l")
ONE_HOLDS_THE_LOCK = Ground(EXPIRED_S, jobs=("one", "two"), lock="l", held=("one",))
EXPIRED = Ground(EXPIRED_S, held=("one",))
ALIVE = Ground(ALIVE_S, held=("one",))
UNSTARTED = Ground(UNSTARTED_S, held=("one",), started=False)
CANCELLED = Ground(EXPIRED_S, held=("one",), cancelled=True)
MONEY = Ground(EXPIRED_S, jobs=("one", "two"), held=("one",), budgets=True)
TORN = Ground(EXPIRED_S, held=("one",), started=False, projected=False)

PAIRS: tuple[Small, ...] = (
    Small("two claims", QUEUED, (claim(0, "f1"), claim(1, "f2")), faults=2, deeper=3),
    Small("two claims of one coordinator", QUEUED, (claim(0, "f1"), claim(0, "f2"))),
    Small("claim vs its repeat elsewhere", QUEUED, (claim(0), claim(1)), faults=2, deeper=3),
    Small("claim vs its repeat, two jobs", Ground(ALIVE_S, ("one", "two")), (claim(0, job=None), claim(1, job=None))),
    Small(
        "claim vs its repeat, a job unheard of",
        Ground(ALIVE_S, ("one", "two")),
        (claim(0, job=None), claim(1, job=None)),
        unaware=((0, "one"), (1, "two")),
    ),
    Small("renew vs reap", EXPIRED, (renew(0), reap(1)), faults=2, deeper=3),
    Small("start vs reap", UNSTARTED, (start(0), reap(1)), faults=2, deeper=3),
    Small("report vs reap", EXPIRED, (report(0), reap(1)), faults=2, deeper=3),
    Small("report vs its repeat elsewhere", ALIVE, (report(0), report(1)), faults=2, deeper=3),
    Small("report vs another session's", ALIVE, (report(0), report(1, session_no=2))),
    Small("report vs release", ALIVE, (report(0), release(1)), faults=2),
    Small("cancel vs report", ALIVE, (act(0), report(1, outcome=Outcome.ENGINE_FAILED)), faults=2, deeper=3),
    Small("cancel vs release", ALIVE, (act(0), release(1)), faults=2, deeper=3),
    Small("cancel vs claim", QUEUED, (act(0), claim(1)), faults=2, deeper=3),
    Small("cancel vs reap", EXPIRED, (act(0), reap(1)), faults=2, deeper=3),
    Small("two jobs, one lock", TWO_BEHIND_A_LOCK, (claim(0, "f1", job="one"), claim(1, "f2", job="two")), faults=2),
    Small("the lock's holder ends vs claim", ONE_HOLDS_THE_LOCK, (report(0), claim(1, "f2", job="two")), faults=2),
    Small("reap vs reap", EXPIRED, (reap(0), reap(1)), faults=2),
    Small("two jobs, one ledger", MONEY, (report(0), claim(1, "f2", job="two"))),
    Small("sweep vs reap", TORN, (sweep(0), reap(1))),
    Small("hello vs report of the old session", ALIVE, (hello(0), report(1)), moves=frozenset({FACTORIES})),
    Small("hello vs claim of the old session", QUEUED, (hello(0), claim(1)), moves=frozenset({FACTORIES})),
    Small("heartbeat vs claim", QUEUED, (heartbeat(0, ask_no=6), claim(1)), moves=frozenset({FACTORIES})),
)

THREES: tuple[Small, ...] = (
    Small("reap, then claim vs the old report", EXPIRED, (reap(0), claim(1, "f1"), report(2))),
    Small(
        "report, its repeat, reap and claim",
        EXPIRED,
        (report(0), report(1), reap(2), claim(3, "f2")),
        faults=0,
        deeper=1,
    ),
    Small("claim, its repeat and another", QUEUED, (claim(0, "f1"), claim(1, "f1"), claim(2, "f2"))),
    Small("renew, reap and claim", EXPIRED, (renew(0), reap(1), claim(2, "f2"))),
    Small("cancel, requeue, cancel's repeat", QUEUED, (act(0), act(1, "requeue", key="k2"), act(2))),
    Small("cancelled: release vs reap vs claim", CANCELLED, (release(0), reap(1), claim(2, "f2"))),
    Small(
        "report, reap and a claim behind the lock", ONE_HOLDS_THE_LOCK, (report(0), reap(1), claim(2, "f2", job="two"))
    ),
    Small("sweep, renew and reap", TORN, (sweep(0), renew(1), reap(2))),
)


def _combined(ground: Ground, name: str, operations: tuple[Operation, ...], of: int, **bounds: Any) -> Iterator[Small]:
    """Every choice of `of` operations, each asked of another coordinator."""
    for chosen in itertools.combinations(operations, of):
        placed = tuple(operation.to(at) for at, operation in enumerate(chosen))
        names = ", ".join(operation.name for operation in chosen)
        yield Small(f"{name}: {names}", ground, placed, **bounds)


def _with_both_stores(worlds: tuple[Small, ...]) -> Iterator[Small]:
    """Once with an outbox to project from, once with derived documents in the same transaction."""
    for world in worlds:
        yield world
        if world.ground.projected:
            yield replace(world, name=f"{world.name} (one transaction)", atomic_then=True)


AT_A_HELD_JOB = (renew(0), reap(0), report(0), act(0), claim(0, "f1"), claim(0, "f2"), claim(0, "f2", "r3", "two"))

WORLDS: tuple[Small, ...] = (
    *_with_both_stores(PAIRS),
    *_with_both_stores(THREES),
    *_combined(ONE_HOLDS_THE_LOCK, "held and expired", AT_A_HELD_JOB, 3, faults=0, deeper=1, atomic_then=True),
    *_combined(ONE_HOLDS_THE_LOCK, "held and expired", AT_A_HELD_JOB, 4, only_deeper=True, deeper=0, atomic_then=True),
)
