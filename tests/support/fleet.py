"""Builders: a coordinator around a store on virtual time, and factories that speak to its handlers."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bus.none import NoBus
from bus.port import Bus
from coordinator.assembly import Coordinator, assemble
from coordinator.context import Context
from coordinator.handlers import claims, enrolment, heartbeats, intake, sessions, terms
from coordinator.store.job_history import read_history
from coordinator.store.memory import MemoryStore
from coordinator.store.port import LEASES, RUNS, Query, Store
from coordinator.store.queries import read_job, read_lease
from coordinator.term_logs import LogFiles
from runtime.clock import Clock, LoopClock
from runtime.entropy import Entropy
from runtime.settings import Flags, Timers
from schemas.factory import FactoryDoc
from schemas.ids import JobKey
from schemas.job import Job
from schemas.messages import (
    CheckpointRequest,
    ClaimAnswer,
    ClaimRequest,
    Grant,
    HeartbeatAnswer,
    HeartbeatRequest,
    HelloAnswer,
    HelloRequest,
    Holding,
    ReleaseRequest,
    RenewRequest,
    ReportAnswer,
    ReportRequest,
    StartRequest,
)
from schemas.outcome import Outcome, Result, VerifyEvidence
from schemas.projections import EventDoc, LeaseDoc, RunDoc
from schemas.work import Engine

PRODUCT = "shop"


def assembled_coordinator(
    store: Store | None = None,
    *,
    clock: Clock | None = None,
    seed: int = 1,
    timers: Timers | None = None,
    budgets: bool = False,
    bus: Bus | None = None,
    logs: Path = Path("unused"),
    alone: bool = True,
) -> Coordinator:
    """A coordinator as the service makes it, around twins; nothing of it runs."""
    return assemble(
        store or MemoryStore(),
        bus or NoBus(),
        LogFiles(logs),
        clock=clock or LoopClock(),
        entropy=Entropy(random.Random(seed)),
        timers=timers,
        flags=Flags(budgets=budgets),
        alone=alone,
    )


def coordinator(store: Store | None = None, **parts: Any) -> Context:
    """The parts of a coordinator that handlers work with; see `assembled_coordinator`."""
    return assembled_coordinator(store, **parts).ctx


SHELL_BLOCK = "```sh\ntrue\n```\n"  # what a body needs at least, for the shell
BODY = f"do it\n{SHELL_BLOCK}"


def manifest(body: str = BODY, **keys: Any) -> bytes:
    front = {"engine": "shell", **keys}
    lines = "".join(f"{name}: {value}\n" for name, value in front.items())
    return f"---\n{lines}---\n{body}".encode()


async def submitted(ctx: Context, key: str = "one", **keys: Any) -> Job:
    submission = intake.Submission(manifest(**keys), PRODUCT, key)
    return (await intake.submit(ctx, submission, "operator:ann")).job


def evident(outcome: Outcome, verify: tuple[str, ...]) -> Result:
    """With what an outcome needs to be believed: each command of the manifest, and that it passed."""
    shown = tuple(VerifyEvidence(command=command, rc=0) for command in verify if outcome is Outcome.OK)
    return Result(outcome=outcome, verify=shown)


@dataclass
class FakeFactory:
    """Speaks to one coordinator's handlers directly, as a well-behaved factory would."""

    ctx: Context
    id: str = "f1"
    capabilities: tuple[str, ...] = ()
    seats: int = 8
    products: tuple[str, ...] = (PRODUCT,)
    session_id: str = "s1"
    session_no: int = 1
    asks: int = 0
    answers: list[Any] = field(default_factory=list)

    async def joined(self) -> FakeFactory:
        doc = FactoryDoc(
            id=self.id,
            product_id=self.products[0],
            products=self.products,
            enrolled_capabilities=self.capabilities,
        )
        await enrolment.enroll(self.ctx, doc)
        await self.hello()
        return self

    def on(self, ctx: Context) -> FakeFactory:
        """The same session, talking to another coordinator."""
        return FakeFactory(
            ctx,
            self.id,
            self.capabilities,
            self.seats,
            self.products,
            self.session_id,
            self.session_no,
            self.asks,
        )

    def ask_no(self) -> int:
        self.asks += 1
        return self.asks

    async def hello(self, **changes: Any) -> HelloAnswer:
        fields = {
            "factory_id": self.id,
            "session_id": self.session_id,
            "session_no": self.session_no,
            "ask_no": self.ask_no(),
            "capabilities": self.capabilities,
            "engines": (Engine.SHELL,),
            "seat_limit": self.seats,
        }
        return await sessions.hello(self.ctx, HelloRequest(**{**fields, **changes}))

    def claim_request(self, request_id: str = "r1", job: Job | None = None, **changes: Any) -> ClaimRequest:
        fields: dict[str, Any] = {
            "factory_id": self.id,
            "session_id": self.session_id,
            "session_no": self.session_no,
            "ask_no": self.ask_no(),
            "request_id": request_id,
            "product_id": job.product_id if job else None,
            "job_id": job.id if job else None,
        }
        return ClaimRequest(**{**fields, **changes})

    async def claim(self, request_id: str = "r1", job: Job | None = None, **changes: Any) -> ClaimAnswer:
        return await claims.claim(self.ctx, self.claim_request(request_id, job, **changes))

    async def granted(self, request_id: str = "r1", job: Job | None = None) -> Grant:
        (grant,) = (await self.claim(request_id, job)).grants
        return grant

    def term(self, grant: Grant, **changes: Any) -> dict[str, Any]:
        return {
            "factory_id": self.id,
            "session_id": self.session_id,
            "ask_no": self.ask_no(),
            "product_id": grant.product_id,
            "job_id": grant.job_id,
            "lease_epoch": grant.lease_epoch,
            **changes,
        }

    async def start(self, grant: Grant, **changes: Any) -> Any:
        return await terms.start(self.ctx, StartRequest(**self.term(grant, **changes)))

    async def renew(self, grant: Grant, **changes: Any) -> Any:
        return await terms.renew(self.ctx, RenewRequest(**self.term(grant, **changes)))

    async def checkpoint(self, grant: Grant, number: int = 1, **changes: Any) -> Any:
        fields = self.term(grant, number=number, ref="refs/gigafactory/x/1", commit="a" * 40)
        return await terms.checkpoint(self.ctx, CheckpointRequest(**{**fields, **changes}))

    async def report(self, grant: Grant, outcome: Outcome = Outcome.OK, **changes: Any) -> ReportAnswer:
        fields = self.term(grant, result=evident(outcome, grant.verify), session_no=self.session_no)
        return await terms.report(self.ctx, ReportRequest(**{**fields, **changes}))

    async def release(self, grant: Grant, outcome: Outcome = Outcome.RELEASED, **changes: Any) -> Any:
        return await terms.release(self.ctx, ReleaseRequest(**self.term(grant, outcome=outcome, **changes)))

    def heartbeat_request(self, *grants: Grant, **changes: Any) -> HeartbeatRequest:
        holding = tuple(
            Holding(product_id=grant.product_id, job_id=grant.job_id, lease_epoch=grant.lease_epoch) for grant in grants
        )
        fields: dict[str, Any] = {
            "factory_id": self.id,
            "session_id": self.session_id,
            "session_no": self.session_no,
            "ask_no": self.ask_no(),
            "holding": holding,
            "seat_limit": self.seats,
        }
        return HeartbeatRequest(**{**fields, **changes})

    async def heartbeat(self, *grants: Grant, **changes: Any) -> HeartbeatAnswer:
        return await heartbeats.heartbeat(self.ctx, self.heartbeat_request(*grants, **changes))


async def job_now(ctx: Context, job: Job | JobKey) -> Job:
    stored = await read_job(ctx.store, job if isinstance(job, JobKey) else job.key)
    assert stored is not None
    return stored.job


async def lease_of(ctx: Context, grant: Grant) -> LeaseDoc | None:
    stored = await read_lease(ctx.store, grant.job_id, grant.lease_epoch)
    return stored.lease if stored else None


async def events_of(ctx: Context, job: Job) -> list[EventDoc]:
    events = await read_history(ctx.store, job.key)
    assert events is not None
    assert [event.seq for event in events] == list(range(1, len(events) + 1)), "the history has a gap"
    return events


async def runs_in(ctx: Context, job: Job) -> list[RunDoc]:
    page = await ctx.store.query(Query(RUNS, job.id, order="leaseEpoch"))
    return [RunDoc.model_validate(stored.doc) for stored in page]


async def leases_in(ctx: Context, job: Job) -> list[LeaseDoc]:
    page = await ctx.store.query(Query(LEASES, job.id))
    return [LeaseDoc.model_validate(stored.doc) for stored in page]
