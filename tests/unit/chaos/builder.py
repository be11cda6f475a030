"""Histories made by hand: what is said in few words becomes the records and documents that a world would leave."""

from __future__ import annotations

from typing import Any

from chaos.checkers.registry import CHECKERS
from chaos.history import Doc, History, Violation
from schemas.ids import action_op, checkpoint_op, claim_op, end_op, job_id_for, reap_op, start_op, submit_op
from schemas.job import HELD

TIMERS = {
    "leaseTtlS": 60.0,
    "heartbeatS": 5.0,
    "reaperS": 5.0,
    "skewS": 2.0,
    "grantStartS": 30.0,
    "trustMarginS": 5.0,
    "stopDeadlineS": 30.0,
}
COMMIT = "a" * 40
OTHER = "b" * 40
PRODUCT = "shop"
END_STAGES = {"ok": "shipped", "engine_failed": "failed", "released": "queued", "lost": "queued", "preempted": "queued"}


class Told:
    """A history in the making. Everything happens at `at`, which only rises; documents follow from what was done.

    Each `...ed` that stores something also notes that it was seen; `quietly` leaves that out.
    """

    def __init__(self, *, budgets: bool = False, coordinators: tuple[str, ...] = ("c1",), seen: bool = True) -> None:
        self.history = History(documents={name: [] for name in ("fleet_jobs", "fleet_events", "fleet_runs")})
        self.history.documents |= {"fleet_leases": [], "fleet_factories": []}
        self.now = 0.0
        self._asks = 0
        self._seen = seen
        self._jobs: dict[str, Doc] = {}
        self._lives: dict[str, int] = {}
        self.note("fleet", "world", timers=TIMERS, budgets=budgets)
        for name in coordinators:
            self.note("up", f"coordinator:{name}", life=1)

    # -- records --

    def at(self, at_s: float) -> Told:
        assert at_s >= self.now, (at_s, self.now)
        self.now = at_s
        return self

    def note(self, kind: str, who: str, **data: Any) -> None:
        self.history.note(self.now, kind, who, **data)

    def enrolled(self, factory: str, *capabilities: str, products: tuple[str, ...] = (PRODUCT,)) -> None:
        self.note("enrolled", "operator:ann", factoryId=factory, products=products, capabilities=capabilities)

    def up(self, factory: str, session: str = "s1", *capabilities: str, seats: int = 1, life: int = 1) -> None:
        said = {"seats": seats, "engines": ["shell"], "capabilities": list(capabilities), "sessionId": session}
        self._lives[factory] = life
        self.note("up", f"factory:{factory}", life=life, **said)

    def asked(self, op: str, message: Doc, who: str, over: str = "rest", to: str = "c1") -> int:
        self._asks += 1
        self.note("asked", who, ask=self._asks, op=op, over=over, to=to, message=message)
        return self._asks

    def answered(self, ask: int, who: str, **answer: Any) -> None:
        self.note("answered", who, ask=ask, answer=answer)

    def refused(self, ask: int, who: str, code: str = "fenced", **detail: Any) -> None:
        self.note("refused", who, ask=ask, error={"code": code, "message": "", "detail": detail})

    def unanswered(self, ask: int, who: str) -> None:
        self.note("unanswered", who, ask=ask, why="lost")

    def engine(self, does: str, factory: str, job: str, epoch: int = 1, session: str = "s1", life: int = 1) -> None:
        held = {"sessionId": session, "productId": PRODUCT, "jobId": job, "leaseEpoch": epoch}
        self.note("engine", f"factory:{factory}", does=does, life=life, **held)

    def tree(self, does: str, factory: str, job: str, epoch: int = 1, life: int = 1, **more: Any) -> None:
        self.note("tree", f"factory:{factory}", does=does, life=life, jobId=job, leaseEpoch=epoch, **more)

    def fault(self, does: str, name: str, on: str) -> None:
        self.note("fault", "world", name=name, does=does, on=on)

    # -- documents --

    def event(self, job: str, kind: str, op_id: str, to: str, actor: str = "coordinator", **data: Any) -> Doc:
        doc = self._jobs[job]
        seq = doc["seq"] + 1
        event = {
            "id": f"{job}:{seq}", "jobId": job, "productId": doc["productId"], "seq": seq, "type": kind,
            "at": f"2026-01-01T00:00:{self.now:09.6f}Z", "actor": actor, "opId": op_id,
            "from": doc["stage"] if seq > 1 else None, "to": to, "leaseEpoch": doc["leaseEpoch"], "data": data,
        }  # fmt: skip
        self.history.documents["fleet_events"].append(event)
        doc |= {"seq": seq, "stage": to}
        if self._seen:
            names = ("productId", "jobId", "seq", "type", "leaseEpoch")
            self.note("seen", "world", **{name: event[name] for name in names})
        return event

    def job(self, key: str = "k1", **fields: Any) -> str:
        """A job that was stored, by whomever."""
        product = fields.get("productId", PRODUCT)
        job = job_id_for(product, key)
        self._jobs[job] = {
            "id": job, "productId": product, "stage": "queued", "seq": 0, "leaseEpoch": 1, "grantedEpoch": 0,
            "holder": None, "outbox": [], "pendingEvents": 0, "checkpoint": None, "capabilities": [], "engine": "shell",
            "lock": None, "deps": [], "depsMode": "all", "ship": "auto", "notBefore": None, "blockedReason": None,
            "spend": {"usd": 0.0, "tokens": 0}, "reserved": 0.0, "manifestSha256": f"sha of {key}",
            "idempotencyKey": key, **fields,
        }  # fmt: skip
        self.history.documents["fleet_jobs"].append(self._jobs[job])
        self.event(job, "submitted", submit_op(key), self._jobs[job]["stage"], "operator:ann")
        return job

    def submit(self, key: str = "k1", **fields: Any) -> str:
        message = {"productId": PRODUCT, "idempotencyKey": key, "manifestSha256": f"sha of {key}"}
        ask = self.asked("submit", message, "operator:ann")
        job = self.job(key, **fields)
        self.answered(ask, "operator:ann", jobId=job, stage="queued", opId=submit_op(key), repeated=False)
        return job

    def doc(self, job: str) -> Doc:
        return self._jobs[job]

    def claimed(self, job: str, factory: str, session: str = "s1", request: str = "r1") -> int:
        """The commit of a claim; gives the epoch."""
        doc = self._jobs[job]
        epoch = doc["leaseEpoch"]
        op_id = claim_op(factory, 1, session, request)
        data = {"factoryId": factory, "sessionId": session, "requestId": request}
        event = self.event(job, "claimed", op_id, "assigned", f"factory:{factory}", **data)
        doc |= {"grantedEpoch": epoch, "holder": {"factoryId": factory, "sessionId": session, "requestId": request}}
        named = {"id": f"{job}:{epoch}", "jobId": job, "productId": doc["productId"], "leaseEpoch": epoch}
        self.history.documents["fleet_runs"].append(
            {**named, "factoryId": factory, "sessionId": session, "endedAt": None, "grantedAt": event["at"]}
        )
        self.history.documents["fleet_leases"].append(
            {**named, "holderFactoryId": factory, "sessionId": session, "status": "active"}
        )
        return int(epoch)

    def claim_asked(
        self, factory: str, session: str = "s1", request: str = "r1", over: str = "rest", **more: Any
    ) -> int:
        message = {"factoryId": factory, "sessionId": session, "requestId": request, "max": 1, **more}
        return self.asked("claim", message, f"factory:{factory}", over)

    def grant(self, job: str, request: str = "r1", epoch: int | None = None, **more: Any) -> Doc:
        doc = self._jobs[job]
        named = {"productId": doc["productId"], "jobId": job, "leaseEpoch": epoch or doc["leaseEpoch"]}
        return {**named, "requestId": request, "checkpoint": doc["checkpoint"], "engine": doc["engine"], **more}

    def granted(self, job: str, factory: str, session: str = "s1", request: str = "r1", took_s: float = 0.1) -> int:
        """Asked, committed, and answered; gives the epoch."""
        ask = self.claim_asked(factory, session, request)
        self.at(self.now + took_s)
        epoch = self.claimed(job, factory, session, request)
        self.answered(ask, f"factory:{factory}", grants=[self.grant(job, request)])
        return epoch

    def term(self, job: str, factory: str, session: str = "s1", epoch: int | None = None) -> Doc:
        doc = self._jobs[job]
        named = {"productId": doc["productId"], "jobId": job, "leaseEpoch": epoch or doc["leaseEpoch"]}
        return {"factoryId": factory, "sessionId": session, **named}

    def started(self, job: str, factory: str, session: str = "s1") -> None:
        message = self.term(job, factory, session)
        ask = self.asked("start", message, f"factory:{factory}")
        op_id = start_op(job, message["leaseEpoch"])
        self.event(job, "started", op_id, "building", f"factory:{factory}", sessionId=session)
        self.answered(ask, f"factory:{factory}", stage="building", stop=None, term={})

    def checkpointed(self, job: str, factory: str, number: int = 1, commit: str = COMMIT, session: str = "s1") -> None:
        message = self.term(job, factory, session)
        epoch = message["leaseEpoch"]
        ref = f"refs/gigafactory/{job}/{epoch}"
        ask = self.asked(
            "checkpoint", {**message, "number": number, "ref": ref, "commit": commit}, f"factory:{factory}"
        )
        saved = {"ref": ref, "commit": commit, "number": number, "leaseEpoch": epoch, "local": None}
        op_id = checkpoint_op(job, epoch, number)
        self.event(
            job, "checkpointed", op_id, self._jobs[job]["stage"], f"factory:{factory}", sessionId=session, **saved
        )
        self._jobs[job]["checkpoint"] = saved
        self.answered(ask, f"factory:{factory}", stage="building", stop=None, term={})

    def ended(self, job: str, to: str, **outcome: Any) -> None:
        """What every end of a term does to the documents beside its event."""
        doc = self._jobs[job]
        run = next(one for one in self.history.documents["fleet_runs"] if one["id"] == f"{job}:{doc['leaseEpoch']}")
        run |= {"endedAt": "2026-01-01T00:01:00.000000Z", **outcome}
        doc["holder"] = None
        if to in ("queued", "blocked"):
            doc["leaseEpoch"] = doc["grantedEpoch"] + 1

    def report_stored(self, job: str, factory: str, outcome: str = "ok", session: str = "s1", usd: float = 0.0) -> None:
        """The commit of a report."""
        epoch, to = self._jobs[job]["leaseEpoch"], END_STAGES[outcome]
        data = {"sessionId": session, "outcome": outcome, "insights": {"costUsd": usd}}
        self.event(job, "reported", end_op(job, epoch), to, f"factory:{factory}", **data)
        self._jobs[job]["spend"]["usd"] += usd
        self.ended(job, to, outcome=outcome)

    def report_asked(self, job: str, factory: str, outcome: str = "ok", session: str = "s1", **more: Any) -> int:
        epoch = more.pop("epoch", None)
        message = {**self.term(job, factory, session, epoch), "result": {"outcome": outcome}, **more}
        return self.asked("report", message, f"factory:{factory}")

    def reported(self, job: str, factory: str, outcome: str = "ok", session: str = "s1", usd: float = 0.0) -> None:
        ask = self.report_asked(job, factory, outcome, session)
        self.report_stored(job, factory, outcome, session, usd)
        ended = {"stage": END_STAGES[outcome], "repeated": False}
        self.answered(ask, f"factory:{factory}", report=ended, next=None)

    def reaped(self, job: str, cause: str = "expired", outcome: str = "lost") -> None:
        epoch, to = self._jobs[job]["leaseEpoch"], END_STAGES[outcome]
        lease = next(one for one in self.history.documents["fleet_leases"] if one["id"] == f"{job}:{epoch}")
        lease["status"] = "closed"
        self.event(job, "reaped", reap_op(job, epoch, cause), to, outcome=outcome, cause=cause)
        self.ended(job, to, outcome=outcome)

    def acted(self, job: str, action: str, to: str, key: str = "a1") -> None:
        message = {"productId": PRODUCT, "jobId": job, "action": action, "idempotencyKey": key}
        ask = self.asked("act", message, "operator:ann")
        op_id = action_op(action, "operator:ann", key)
        self.event(job, "stop_requested" if to in HELD else f"{action}ed", op_id, to, "operator:ann")
        self.answered(ask, "operator:ann", jobId=job, stage=to, opId=op_id, repeated=False)

    def converged(self) -> None:
        self.note("converged", "world")


def found(name: str, told: Told) -> list[str]:
    """What one checker says of it; each violation shows records of the history, in their order."""
    violations = list(CHECKERS[name](told.history))
    for one in violations:
        _check(one, name, told.history)
    return [one.what for one in violations]


def _check(violation: Violation, name: str, history: History) -> None:
    assert violation.checker == name
    places = [history.records.index(record) for record in violation.shown_by]
    assert len(places) == len(set(places))


def whole_life() -> Told:
    """A job is submitted, lost by one factory with a checkpoint, finished by another: all of it legal."""
    told = Told()
    told.enrolled("f1")
    told.enrolled("f2")
    told.up("f1")
    told.up("f2")
    job = told.at(1).submit()
    told.at(2).granted(job, "f1")
    told.engine("begins", "f1", job)
    told.at(3).started(job, "f1")
    told.at(10).tree("pushed", "f1", job, ref=f"refs/gigafactory/{job}/1", commit=COMMIT)
    told.checkpointed(job, "f1")
    told.at(20).note("down", "factory:f1", life=1, how="killed")
    told.engine("ends", "f1", job)
    told.at(75).reaped(job)
    told.at(76).granted(job, "f2", request="r2")
    told.tree("made", "f2", job, 2, base=COMMIT)
    told.engine("begins", "f2", job, 2)
    told.at(77).started(job, "f2")
    told.at(90).engine("ends", "f2", job, 2)
    told.at(91).reported(job, "f2")
    told.at(120).converged()
    return told
