"""What can be asked in a small world: of the real handlers and loops. Everything that a term is named by is known
before it is made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from coordinator.context import Context
from coordinator.handlers import actions, budgets, claims, heartbeats, intake, sessions, terms
from coordinator.loops.reaper import Reaper
from coordinator.loops.sweeper import Sweeper
from coordinator.transact import Applied
from schemas import ids
from schemas.base import Schema
from schemas.ids import JobKey
from schemas.manifest import parse_manifest
from schemas.messages import (
    CheckpointRequest,
    ClaimRequest,
    HeartbeatRequest,
    HelloRequest,
    Holding,
    ReleaseRequest,
    RenewRequest,
    ReportRequest,
    StartRequest,
)
from schemas.outcome import Outcome, Result
from schemas.work import Engine

PRODUCT = "shop"
OPERATOR = "operator:ann"

Doc = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """`at`: the coordinator that is asked. `op`, `message`: as in a history; None where nobody asks."""

    name: str
    at: int
    act: Callable[[Context], Awaitable[Schema | Doc | None]]
    who: str = "coordinator"
    op: str | None = None
    message: Doc = field(default_factory=dict)

    def to(self, at: int) -> Operation:
        return replace(self, at=at)

    def asked(self, ask: int) -> Doc:
        """What a history records of asking it."""
        return {"ask": ask, "op": self.op, "over": "direct", "to": f"c{self.at + 1}", "message": self.message}


def job_key(name: str) -> JobKey:
    return JobKey(PRODUCT, ids.job_id_for(PRODUCT, name))


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
    return _said(ask, f"claim of {job or 'the best'}", at, claims.claim, "claim")


def renew(at: int, factory: str = "f1", job: str = "one", epoch: int = 1) -> Operation:
    return _said(RenewRequest(**_term(factory, job, epoch, 1)), "renew", at, terms.renew, "renew")


def start(at: int, factory: str = "f1", job: str = "one", epoch: int = 1) -> Operation:
    request = StartRequest(**_term(factory, job, epoch, 1))
    return _said(request, "start", at, terms.start, "start")


def report(
    at: int,
    factory: str = "f1",
    job: str = "one",
    epoch: int = 1,
    session_no: int = 1,
    outcome: Outcome = Outcome.OK,
) -> Operation:
    request = ReportRequest(**_term(factory, job, epoch, session_no), result=Result(outcome=outcome))
    return _said(request, f"report {outcome} of session {session_no}", at, terms.report, "report")


def checkpoint(at: int, factory: str = "f1", job: str = "one", epoch: int = 1, number: int = 1) -> Operation:
    pushed = {"number": number, "ref": "refs/gigafactory/x/1", "commit": "a" * 40}
    request = CheckpointRequest(**_term(factory, job, epoch, 1), **pushed)
    return _said(request, f"checkpoint {number}", at, terms.checkpoint, "checkpoint")


def release(at: int, factory: str = "f1", job: str = "one", epoch: int = 1) -> Operation:
    request = ReleaseRequest(**_term(factory, job, epoch, 1))
    return _said(request, "release", at, terms.release, "release")


def hello(at: int, factory: str = "f1", session_no: int = 2) -> Operation:
    request = HelloRequest(**_hello(factory, session_no), takeover=True)
    return _said(request, f"hello of session {session_no}", at, sessions.hello, "hello")


def _hello(factory: str, session_no: int) -> Doc:
    return {
        **_factory(factory, session_no), "session_no": session_no, "ask_no": 1, "seat_limit": 2,
        "engines": (Engine.SHELL,),
    }  # fmt: skip


def heartbeat(at: int, factory: str = "f1", ask_no: int = 6, holds: str | None = None) -> Operation:
    """One that names the first term of a job, or (None) no term at all."""
    held = [Holding(product_id=PRODUCT, job_id=job_key(job).job_id, lease_epoch=1) for job in (holds,) if job]
    request = HeartbeatRequest(**_factory(factory), session_no=1, ask_no=ask_no, seat_limit=2, holding=tuple(held))
    return _said(request, f"heartbeat {ask_no}", at, heartbeats.heartbeat, "heartbeat")


def submit(at: int, name: str, body: str = "do it", **keys: str | None) -> Operation:
    front = "".join(f"{key}: {value}\n" for key, value in {"engine": "shell", **keys}.items() if value)
    raw = f"---\n{front}---\n{body}\n```sh\ntrue\n```\n".encode()

    async def asked(ctx: Context) -> Doc:
        job = (await intake.submit(ctx, intake.Submission(raw, PRODUCT, name), OPERATOR)).job
        return {"jobId": job.id, "stage": str(job.stage), "opId": ids.submit_op(name), "repeated": False}

    message = {"productId": PRODUCT, "idempotencyKey": name, "manifestSha256": parse_manifest(raw).sha256}
    return Operation(f"submit of {name} ({body})", at, asked, OPERATOR, "submit", message)


def act(at: int, action: str = "cancel", job: str = "one", key: str = "k1") -> Operation:
    """A preempt is one of the first term."""
    job_ = job_key(job)
    epoch = 1 if action == "preempt" else None

    async def asked(ctx: Context) -> Doc:
        return _done(await actions.act(ctx, job_, action, OPERATOR, key, lease_epoch=epoch))

    message = {"productId": PRODUCT, "jobId": job_.job_id, "action": action, "idempotencyKey": key}
    return Operation(action, at, asked, OPERATOR, "act", message)


def _done(applied: Applied) -> Doc:
    return {
        "jobId": applied.job.id,
        "stage": applied.event.to_stage,
        "opId": applied.event.op_id,
        "repeated": applied.repeated,
    }


def pause(at: int) -> Operation:
    async def asked(ctx: Context) -> Schema:
        return await budgets.set_paused(ctx, PRODUCT, paused=True)

    return Operation("pause", at, asked, OPERATOR, "pause", {"productId": PRODUCT, "paused": True})


def reap(at: int) -> Operation:
    async def run(ctx: Context) -> None:
        await Reaper(ctx).run_once(ctx.clock.now())

    return Operation("reap", at, run)


def sweep(at: int) -> Operation:
    async def run(ctx: Context) -> None:
        await Sweeper(ctx).run_once(ctx.clock.now())

    return Operation("sweep", at, run)
