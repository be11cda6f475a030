"""A seeded walk through the whole protocol, over a bad line: two coordinators share a store that loses writes, loses
answers, tears projections and lets writes land late; messages are lost, late and doubled. Whatever the weather, each
term has one holder, epochs rise, a lock has one job, the history is whole, and the ledger's sums are right.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from coordinator.context import Context
from coordinator.handlers import actions, budgets, claims, heartbeats, intake
from coordinator.loops.promoter import Promoter
from coordinator.loops.reaper import Reaper
from coordinator.loops.sweeper import Sweeper
from coordinator.store.job_history import read_history
from coordinator.store.memory import MemoryStore
from coordinator.store.port import ABSENT, Derived, Doc, Guarded, Indefinite, StoreError, Written
from coordinator.store.queries import read_guard, read_job, read_run
from coordinator.transact import Applied
from runtime.clock import LoopClock
from runtime.virtual import run_virtual
from schemas.errors import ErrorCode, FleetError
from schemas.guards import LedgerGuard
from schemas.ids import LEDGER_ID, JobKey, end_op, run_id
from schemas.job import Job
from schemas.messages import ClaimRequest, Grant
from schemas.outcome import Outcome
from schemas.projections import EventDoc
from tests.support.fleet import PRODUCT, FakeFactory, coordinator, manifest
from tests.support.racy import RacyStore

SEEDS = range(20)
SEEDS_TO_CATCH = range(40)  # it stops at the first that does
WALKERS = 6
STEPS = 40
LATEST_S = 40.0  # how late a write may land
KINDS: tuple[dict[str, str], ...] = (
    {"budget": "{usd: 3}"},
    {"budget": "{usd: 3}", "lock": "l"},
    {"budget": "{usd: 3}", "lock": "m", "verify": '"true"'},
)
OUTCOMES = (Outcome.OK, Outcome.ENGINE_FAILED, Outcome.BUDGET, Outcome.PREEMPTED, Outcome.RELEASED)
TICK_S = 0.01  # delays are multiples of it, so that things do happen at the same moment

Message = Callable[[Context], Awaitable[Any]]


class Witness:
    """Sees every job document that is written and every grant that is told, and keeps what must not be."""

    def __init__(self) -> None:
        self.wrongs: list[str] = []
        self.last: dict[str, Doc] = {}
        self.acknowledged: set[tuple[str, str]] = set()  # job, op id
        self.fenced: set[tuple[str, str, str]] = set()  # op id, actor, session: told that it does not count
        self._holders: dict[tuple[str, int], tuple[str, int, str]] = {}

    def wrong(self, what: str) -> None:
        self.wrongs.append(what)

    def written(self, doc: Doc) -> None:
        if "stage" not in doc:
            return
        before = self.last.get(doc["id"], doc)
        if (doc["seq"], doc["leaseEpoch"]) < (before["seq"], before["leaseEpoch"]):
            self.wrong(f"{doc['id']} went back: {before['seq']}, {before['leaseEpoch']}")
        if doc["leaseEpoch"] < before["leaseEpoch"]:
            self.wrong(f"the epoch of {doc['id']} fell")
        self.last[doc["id"]] = doc
        if doc["holder"] is not None:
            holder = doc["holder"]
            self.holds(doc["id"], doc["leaseEpoch"], (holder["factoryId"], holder["sessionNo"], holder["requestId"]))
        busy = Counter(one["lock"] for one in self.last.values() if one["lock"] and one["holder"])
        if any(held > 1 for held in busy.values()):
            self.wrong(f"two jobs hold one lock: {dict(busy)}")

    def told(self, factory: FakeFactory, grant: Grant) -> None:
        self.holds(grant.job_id, grant.lease_epoch, (factory.id, factory.session_no, grant.request_id))

    def holds(self, job_id: str, lease_epoch: int, who: tuple[str, int, str]) -> None:
        known = self._holders.setdefault((job_id, lease_epoch), who)
        if known != who:
            self.wrong(f"term {lease_epoch} of {job_id} has two holders: {known} and {who}")


class BadLine:
    """Between the coordinators and their store. `trouble` is the share of calls that go wrong."""

    def __init__(self, inner: MemoryStore, chance: random.Random, trouble: float, witness: Witness) -> None:
        self.inner = inner
        self.trouble = trouble
        self.late: set[asyncio.Task[Any]] = set()
        self._chance = chance
        self._witness = witness

    @property
    def atomic_then(self) -> bool:
        return self.inner.atomic_then

    def __getattr__(self, method: str) -> Any:
        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._travels()
            if self._chance.random() < self.trouble:
                await self._goes_wrong(method, *args, **kwargs)
            answer = await self._done(method, *args, **kwargs)
            await self._travels()
            return answer

        return call

    async def _travels(self) -> None:
        await asyncio.sleep(self._chance.randrange(3) * TICK_S)

    async def _done(self, method: str, *args: Any, **kwargs: Any) -> Any:
        answer = await getattr(self.inner, method)(*args, **kwargs)
        if method == "commit" and answer.ok:
            for write in args[0]:
                self._witness.written(write.doc)
        return answer

    async def _goes_wrong(self, method: str, *args: Any, **kwargs: Any) -> None:
        fate = self._chance.choice(("lost", "answer lost", "late", "torn"))
        if method == "project" and fate == "torn":
            await self.inner.project([write for write in args[0] if self._chance.random() < 0.5])
        elif method in ("commit", "create", "update", "project") and fate == "answer lost":
            await self._done(method, *args, **kwargs)
        elif method in ("commit", "create", "update", "project") and fate == "late":
            self._later(method, *args, **kwargs)
        raise Indefinite(fate)

    def _later(self, method: str, *args: Any, **kwargs: Any) -> None:
        delay_s = self._chance.choice((TICK_S, 0.1, 5.0, LATEST_S)) * self._chance.random()

        async def lands() -> None:
            await asyncio.sleep(delay_s)
            await self._done(method, *args, **kwargs)

        self.late.add(task := asyncio.create_task(lands()))
        task.add_done_callback(self.late.discard)


class Walk:
    def __init__(self, seed: int, inner: MemoryStore) -> None:
        self.chance = random.Random(seed)
        self.inner = inner
        self.witness = Witness()
        self.line = BadLine(inner, self.chance, self.chance.choice((0.0, 0.02, 0.1)), self.witness)
        self.coordinators = [self._coordinator(self.line, seed + n, self.chance.uniform(-1, 1)) for n in range(2)]
        self.factories: list[FakeFactory] = []
        self.grants: list[tuple[FakeFactory, Grant]] = []
        self.submitted: set[JobKey] = set()
        self._doubles: set[asyncio.Task[Any]] = set()

    @staticmethod
    def _coordinator(store: Any, seed: int, skew_s: float = 0.0) -> Context:
        return coordinator(store, seed=seed, clock=LoopClock(skew_s), budgets=True, alone=False)

    async def run(self) -> list[str]:
        """What went wrong; empty when nothing did."""
        calm = self._coordinator(self.inner, seed=9)
        self.factories = [await FakeFactory(calm, id=f"f{n}", seats=2).joined() for n in range(3)]
        loops = asyncio.create_task(self._loops())
        await asyncio.gather(*(self._walker() for _ in range(WALKERS)))
        self.line.trouble = 0.0
        await asyncio.gather(*self.line.late, *self._doubles)
        await asyncio.sleep(2 * calm.timers.sweeper_s)
        loops.cancel()
        for _ in range(2):
            await Sweeper(calm).run_once(calm.clock.now())
        await self._check()
        return self.witness.wrongs

    async def _loops(self) -> None:
        promoters = [Promoter(ctx) for ctx in self.coordinators]
        while True:
            await asyncio.sleep(5)
            for ctx, promoter in zip(self.coordinators, promoters, strict=True):
                for run_once in (Reaper(ctx).run_once, Sweeper(ctx).run_once, promoter.run_once):
                    await self._asked(lambda ctx, run_once=run_once: run_once(ctx.clock.now()), ctx)  # type: ignore[misc]

    async def _walker(self) -> None:
        steps = (self._submits, self._claims, self._holds, self._operates, self._restarts, self._pauses)
        for _ in range(STEPS):
            await asyncio.sleep(self.chance.randrange(10) * self.chance.choice((TICK_S, 0.1, 1.2)))
            (step,) = self.chance.choices(steps, (15, 30, 40, 10, 2, 3))
            await step()

    async def _sent(self, message: Message) -> Any:
        """The answer to a message that may get lost, be late, or come twice; None where there was none."""
        fate = self.chance.random()
        if fate < 0.05:
            return None
        if fate < 0.15:
            await asyncio.sleep(self.chance.random() * 40)
        elif fate < 0.35:
            self._doubles.add(task := asyncio.create_task(self._double(message)))
            task.add_done_callback(self._doubles.discard)
        return await self._asked(message, self.chance.choice(self.coordinators))

    async def _double(self, message: Message) -> None:
        await asyncio.sleep(self.chance.choice((0, 0, TICK_S, 1, 30)))
        await self._asked(message, self.chance.choice(self.coordinators))

    async def _asked(self, message: Message, ctx: Context) -> Any:
        try:
            return await message(ctx)
        except (FleetError, StoreError):
            return None
        except AssertionError as error:
            self.witness.wrong(f"a coordinator contradicts itself: {error!r}")
            return None

    async def _submits(self) -> None:
        number = self.chance.randrange(12)
        submission = intake.Submission(manifest(**KINDS[number % len(KINDS)]), PRODUCT, f"k{number}")
        answer = await self._sent(lambda ctx: intake.submit(ctx, submission, "operator:ann"))
        if answer is not None:
            self.submitted.add(answer.job.key)

    async def _claims(self) -> None:
        """One factory asks for its best job; or all ask at once for jobs that are offered, those behind one lock."""
        queued = [doc for doc in self.witness.last.values() if doc["stage"] == "queued"]
        if not queued or self.chance.random() < 0.3:
            factory = self.chance.choice(self.factories)
            await self._claim(factory, factory.claim_request(self._request_id(), wait_s=self.chance.choice((0, 5))))
            return
        lock = self.chance.choice(queued)["lock"]
        asks = []
        for factory in self.factories:
            offered = self.chance.choice([doc for doc in queued if doc["lock"] == lock])
            named = {"product_id": offered["productId"], "job_id": offered["id"]}
            asks.append(self._claim(factory, factory.claim_request(self._request_id(), **named)))
        await asyncio.gather(*asks)

    def _request_id(self) -> str:
        return f"r{self.chance.randrange(1000)}"

    async def _claim(self, factory: FakeFactory, request: ClaimRequest) -> None:
        for _ in range(self.chance.choice((1, 1, 2))):
            answer = await self._sent(lambda ctx: claims.claim(ctx, request))
            for grant in answer.grants if answer else ():
                self.witness.told(factory, grant)
                self.grants.append((factory, grant))

    async def _holds(self) -> None:
        if not self.grants:
            return
        factory, grant = self.chance.choice(self.grants[-8:])
        match self.chance.choice(("start", "renew", "checkpoint", "end", "end", "heartbeat")):
            case "start":
                await self._sent(lambda ctx: factory.on(ctx).start(grant))
            case "renew":
                await self._sent(lambda ctx: factory.on(ctx).renew(grant))
            case "checkpoint":
                number = self.chance.randrange(1, 9)
                await self._sent(lambda ctx: factory.on(ctx).checkpoint(grant, number))
            case "end":
                outcome = self.chance.choice(OUTCOMES)
                await self._sent(lambda ctx: self._end(ctx, factory, grant, outcome))
            case _:
                request = factory.heartbeat_request(*([grant] if self.chance.random() < 0.7 else []))
                await self._sent(lambda ctx: heartbeats.heartbeat(ctx, request))

    async def _end(self, ctx: Context, factory: FakeFactory, grant: Grant, outcome: Outcome) -> None:
        said, op_id = factory.on(ctx), end_op(grant.job_id, grant.lease_epoch)
        try:
            if outcome is Outcome.RELEASED:
                await said.release(grant)
            else:
                answer = await said.report(grant, outcome, insights={"costUsd": 1.0})
                if answer.report_error is not None:
                    raise FleetError(ErrorCode(answer.report_error["code"]), "of the report")
        except FleetError as error:
            if error.code is ErrorCode.FENCED:
                self.witness.fenced.add((op_id, f"factory:{factory.id}", factory.session_id))
            raise
        self.witness.acknowledged.add((grant.job_id, op_id))

    async def _operates(self) -> None:
        if not self.submitted:
            return
        key = self.chance.choice(sorted(self.submitted))
        action = self.chance.choice((*actions.OPERATOR_ACTIONS, "requeue", "requeue"))
        idempotency_key, lease_epoch = f"a{self.chance.randrange(4)}", self.chance.randrange(1, 5)
        answer: Applied | None = await self._sent(
            lambda ctx: actions.act(ctx, key, action, "operator:ann", idempotency_key, lease_epoch=lease_epoch)
        )
        if answer is not None:
            self.witness.acknowledged.add((key.job_id, answer.event.op_id))

    async def _restarts(self) -> None:
        at = self.chance.randrange(len(self.factories))
        old = self.factories[at]
        number = old.session_no + 1
        new = FakeFactory(old.ctx, old.id, seats=2, session_id=f"s{number}", session_no=number)
        if await self._sent(lambda ctx: new.on(ctx).hello()) is not None:
            self.factories[at] = max(new, self.factories[at], key=lambda one: one.session_no)

    async def _pauses(self) -> None:
        paused = self.chance.random() < 0.15
        await self._sent(lambda ctx: budgets.set_paused(ctx, PRODUCT, paused=paused))

    async def _check(self) -> None:
        wrong, reserved, spent = self.witness.wrong, 0.0, 0.0
        stored = [JobKey(doc["productId"], doc["id"]) for doc in self.witness.last.values()]
        if lost := self.submitted - set(stored):
            wrong(f"acknowledged submits are lost: {lost}")
        for key in stored:
            found, events = await read_job(self.inner, key), await read_history(self.inner, key)
            assert found is not None
            assert events is not None
            reserved += found.job.reserved
            spent += sum((event.data.get("insights") or {}).get("costUsd", 0.0) for event in events)
            self._check_history(found.job, events)
            await self._check_terms(found.job, events)
        ledger = await read_guard(self.inner, PRODUCT, LEDGER_ID)
        sums = LedgerGuard.model_validate(ledger.doc) if ledger else LedgerGuard(id=LEDGER_ID, product_id=PRODUCT)
        if (round(sums.reserved, 6), round(sums.spent, 6)) != (round(reserved, 6), round(spent, 6)):
            wrong(f"the ledger says {sums.reserved} and {sums.spent}, the jobs {reserved} and {spent}")

    def _check_history(self, job: Job, events: list[EventDoc]) -> None:
        wrong = self.witness.wrong
        if [event.seq for event in events] != list(range(1, job.seq + 1)):
            wrong(f"{job.id} is at {job.seq}, its history is {[event.seq for event in events]}")
        stages = [None, *(event.to_stage for event in events)]
        if [event.from_stage for event in events] != stages[:-1] or stages[-1] != job.stage:
            wrong(f"{job.id} is {job.stage}, its history does not lead there")
        ops = Counter(event.op_id for event in events if event.type != "claimed")  # a claim may win anew, see race 1
        if doubled := [op for op, times in ops.items() if times > 1]:
            wrong(f"{job.id} did twice: {doubled}")
        if lost := [op for job_id, op in self.witness.acknowledged if job_id == job.id and op not in ops]:
            wrong(f"{job.id} lost what it acknowledged: {lost}")
        counted = {(event.op_id, event.actor, event.data.get("sessionId")) for event in events}
        if denied := counted & self.witness.fenced:
            wrong(f"{job.id} counts what it called fenced: {denied}")

    async def _check_terms(self, job: Job, events: list[EventDoc]) -> None:
        wrong = self.witness.wrong
        epochs = [event.lease_epoch for event in events if event.type == "claimed"]
        if epochs != sorted(set(epochs)):
            wrong(f"the epochs of {job.id} do not rise: {epochs}")
        if not job.held and job.reserved:
            wrong(f"{job.id} reserves {job.reserved} and is not held")
        for epoch in epochs:
            ends = [e for e in events if e.lease_epoch == epoch and e.type in ("reported", "released", "reaped")]
            run = await read_run(self.inner, job.id, run_id(job.id, epoch))
            if len(ends) > 1 or run is None or (run.ended_at is not None) != bool(ends):
                wrong(f"term {epoch} of {job.id} ended {len(ends)} times, its run is {run}")


class LockBlindStore(MemoryStore):
    """Writes a lock's guard whatever it has become meanwhile, as if the commit did not span it."""

    async def commit(self, guarded: Sequence[Guarded], then: Sequence[Derived] = ()) -> Written:
        blind = []
        for write in guarded:
            if write.doc["id"].startswith("lock:"):
                stored = await self.read(write.address)
                write = replace(write, expected=stored.etag if stored else ABSENT)
            blind.append(write)
        return await super().commit(blind, then)


@pytest.fixture(autouse=True)
def _unlogged(caplog: pytest.LogCaptureFixture) -> None:
    """The trouble is meant, and there is much of it."""
    caplog.set_level(logging.CRITICAL)


@pytest.mark.parametrize("atomic_then", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_the_weather_the_promises_hold(seed: int, atomic_then: bool) -> None:
    assert run_virtual(Walk(seed, MemoryStore(atomic_then=atomic_then)).run()) == []


@pytest.mark.parametrize(
    ("store", "wrong"), [(LockBlindStore, "two jobs hold one lock"), (RacyStore, "has two holders")]
)
def test_the_walk_catches_a_store_that_breaks_one(store: Callable[[], MemoryStore], wrong: str) -> None:
    seen = (one for seed in SEEDS_TO_CATCH for one in run_virtual(Walk(seed, store()).run()))
    assert any(wrong in one for one in seen)
