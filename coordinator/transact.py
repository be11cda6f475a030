"""The write path of jobs, the only one: read, decide, one conditional commit; doubt is settled by reading.

The clock is read once, at the first try, so that the same document meets the same decision on every try. After any
answer that is not a clean yes the job is read again: the write applied if and only if an event above the `seq` first
read carries its op id. No refusal rests on a read that another read could contradict: guards are read before the job,
and a refusal that they took part in is checked against the job once more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from coordinator.domain.decide import decide
from coordinator.domain.guards import Guards, Needs, needs, settle
from coordinator.domain.ops import Op, Rejected
from coordinator.projector import Projector
from coordinator.store import change
from coordinator.store.change import AGAIN, Again
from coordinator.store.job_history import find_event
from coordinator.store.port import ABSENT, COMMIT_DOCS_MAX, JOBS, Derived, Guarded, Store, Stored
from coordinator.store.queries import StoredJob, events_after, read_guard, read_job
from runtime.clock import Clock
from runtime.entropy import Entropy
from runtime.queues import KeyedQueues
from schemas.guards import LedgerGuard, LockGuard
from schemas.ids import LEDGER_ID, JobKey, lock_id
from schemas.job import Job
from schemas.projections import EventDoc

G = TypeVar("G", LockGuard, LedgerGuard)

TOGETHER_MAX = COMMIT_DOCS_MAX // 2  # jobs of one commit: each may bring a lock along


@dataclass(frozen=True)
class Applied:
    """The operation took effect: now, or (`repeated`) when it was first asked. `event` tells of it."""

    job: Job
    event: EventDoc
    repeated: bool = False


Answer = Applied | Rejected


@dataclass
class Ask:
    """One operation on one job, through its tries. `first_seq`: the job's when it was first read."""

    key: JobKey
    op: Op
    stored: StoredJob | None = None
    first_seq: int | None = None
    answer: Answer | None = None

    @property
    def before(self) -> Job | None:
        return self.stored.job if self.stored is not None else None


@dataclass(frozen=True)
class Step:
    """What one try would commit for one ask."""

    ask: Ask
    after: Job

    @property
    def events(self) -> tuple[EventDoc, ...]:
        seq = self.ask.before.seq if self.ask.before is not None else 0
        return tuple(event for event in self.after.outbox if event.seq > seq)


class Transactor:
    def __init__(
        self, store: Store, clock: Clock, entropy: Entropy, projector: Projector, *, budgets: bool = False
    ) -> None:
        self.store = store
        self.projector = projector
        self.budgets = budgets
        self._clock = clock
        self._entropy = entropy
        self._queues = KeyedQueues()

    async def transact(self, key: JobKey, op: Op) -> Answer:
        """Raises FleetError(unavailable) where it cannot be known in time whether it happened."""
        (answer,) = await self.transact_all([(key, op)])
        return answer

    async def transact_all(self, asks: Sequence[tuple[JobKey, Op]]) -> list[Answer]:
        """Operations on different jobs of one product, committed together; each has its own answer, in this order.

        What is refused keeps nothing from the others. At most TOGETHER_MAX. Raises as `transact` does, for all of them.
        """
        tries = [Ask(key, op) for key, op in asks]
        assert len({ask.key for ask in tries}) == len(tries) <= TOGETHER_MAX
        assert len({ask.key.product_id for ask in tries}) <= 1
        moment = Moment(self._clock)
        async with AsyncExitStack() as turns:
            for key in sorted(ask.key for ask in tries):
                await turns.enter_async_context(self._queues.turn(key))
            names = ", ".join(ask.key.job_id for ask in tries)
            in_doubt = change.unknown(
                f"it is not known whether the change of {names} was stored: ask again with the same key", jobId=names
            )
            await change.settle(lambda number: self._attempt(tries, number, moment), self._entropy, in_doubt)
        return [ask.answer for ask in tries if ask.answer is not None]

    async def _attempt(self, asks: Sequence[Ask], number: int, moment: Moment) -> Again | None:
        for ask in asks:
            if ask.answer is None:
                await self._read(ask, number)
        open_asks = [ask for ask in asks if ask.answer is None]
        async with self._turn_at_guards(ask.before for ask in open_asks):
            tried = Try(self, moment.now())
            steps: list[Step] = []
            refused: list[tuple[Ask, Rejected]] = []
            for ask in open_asks:
                decided = await tried.decide(ask)
                if isinstance(decided, Again):
                    return AGAIN
                if isinstance(decided, Rejected):
                    refused.append((ask, decided))
                else:
                    steps.append(Step(ask, decided))
            if steps and not await self.commit(steps, tried.guards()):
                return AGAIN
        for ask, rejected in refused:
            ask.answer = await self.answer_refused(ask, rejected)
        return None

    async def _read(self, ask: Ask, number: int) -> None:
        """The job as it stands. A first try to create one expects that there is none: its commit would tell."""
        creates = ask.op.creates and number == 0
        ask.stored = None if creates else await read_job(self.store, ask.key)
        job = ask.before
        if job is None and not ask.op.creates:
            key = ask.key
            ask.answer = Rejected("not_found", f"there is no job {key.job_id} in product {key.product_id}")
            return
        seq = job.seq if job is not None else 0
        ask.first_seq = seq if ask.first_seq is None else ask.first_seq
        if job is not None:
            ask.answer = await self.answer_own(ask, job, number)

    async def answer_own(self, ask: Ask, job: Job, number: int) -> Applied | None:
        """An earlier try of our own that did apply; or, for what might be legal anew, the asker's earlier ask."""
        assert ask.first_seq is not None
        if number > 0 and job.seq > ask.first_seq:
            event = await self.find_own(ask, job, above=ask.first_seq)
            if event is not None:
                return await self._recover(job, event, above=ask.first_seq)
        if ask.op.may_be_legal_again:
            event = await self.find_own(ask, job)
            if event is not None:
                return Applied(job, event, repeated=True)
        return None

    async def answer_refused(self, ask: Ask, rejected: Rejected) -> Answer:
        """The repeat of what was accepted is answered as before; all else is refused, with the job as it stands."""
        stored = await read_job(self.store, ask.key)
        if stored is None:
            return rejected
        event = await self.find_own(ask, stored.job)
        return replace(rejected, job=stored.job) if event is None else Applied(stored.job, event, repeated=True)

    async def find_own(self, ask: Ask, job: Job, above: int = 0) -> EventDoc | None:
        """The event by which this very operation took effect."""
        return await find_event(self.store, job, ask.op.id, above) if ask.op.concerns(job) else None

    async def commit(self, steps: Sequence[Step], guards: Sequence[Guarded]) -> bool:
        """All steps with the guards that they span, or nothing. Each ask is answered once it is known."""
        writes, then = [], list[Derived]()
        for step in steps:
            after = step.after
            expected = ABSENT if step.ask.stored is None else step.ask.stored.etag
            writes.append(Guarded(JOBS, self._to_write(after).to_doc(), expected))
            if self.store.atomic_then:
                then += await self.projector.derive(after)
        written = await self.store.commit([*writes, *guards], then)
        if not written.ok:
            return False
        for step in steps:
            own = next(event for event in step.events if event.op_id == step.ask.op.id)
            step.ask.answer = await self.answer_committed(step.after, step.events, own)
        return True

    async def answer_committed(self, job: Job, events: tuple[EventDoc, ...], own: EventDoc) -> Applied:
        """What follows a commit: its documents, and everybody who hears of it."""
        if not self.store.atomic_then:
            await self.projector.project(job)
        self.projector.after_commit(job, events)
        return Applied(job, own)

    async def _recover(self, job: Job, own: EventDoc, above: int) -> Applied:
        """A write of ours whose answer was lost: what follows a commit is made up for."""
        kept = [event for event in job.outbox if event.seq > above]
        events = kept or [event for event in await events_after(self.store, job.id, above) if event.seq <= own.seq]
        return await self.answer_committed(job, tuple(events), own)

    def _to_write(self, job: Job) -> Job:
        if self.store.atomic_then:
            return job.model_copy(update={"outbox": (), "pending_events": 0})
        return self.projector.trimmed(job)

    @asynccontextmanager
    async def _turn_at_guards(self, jobs: Iterable[Job | None]) -> AsyncIterator[None]:
        """Always in the same order, so that nobody waits in a circle."""
        known = [job for job in jobs if job is not None]
        async with AsyncExitStack() as turns:
            for product_id, lock in sorted({(job.product_id, job.lock) for job in known if job.lock is not None}):
                await turns.enter_async_context(self._queues.turn(("lock", product_id, lock)))
            if self.budgets:
                for product_id in sorted({job.product_id for job in known}):
                    await turns.enter_async_context(self._queues.turn(("ledger", product_id)))
            yield


@dataclass
class Moment:
    """The time of all tries: read once, and not before the first one's turn, as waiting is no part of a grant."""

    clock: Clock
    at: datetime | None = None

    def now(self) -> datetime:
        self.at = self.at or self.clock.now()
        return self.at


@dataclass
class Try:
    """One try of several operations. Each meets their product's guards as those before it have left them."""

    transactor: Transactor
    now: datetime
    read: dict[str, Stored | None] = field(default_factory=dict)
    wanted: dict[str, LockGuard | LedgerGuard] = field(default_factory=dict)

    async def decide(self, ask: Ask) -> Job | Rejected | Again:
        """AGAIN: the job moved on between the reads, so that a refusal would rest on a stale one."""
        before = ask.before
        decided = decide(before, ask.op, self.now)
        if isinstance(decided, Rejected):
            return decided
        if before is None or ask.stored is None:
            return decided
        decided = decided.model_copy(update={"rev": before.rev + 1})
        need = needs(before, decided, budgets=self.transactor.budgets)
        if not any(need):
            return decided
        guards = await self._read_guards(decided, need)
        again = await read_job(self.transactor.store, ask.key)  # guards first, the job last
        if again is None or again.etag != ask.stored.etag:
            return AGAIN
        settled = settle(before, decided, guards, need)
        if isinstance(settled, Rejected):
            return settled
        after, wanted = settled
        self.wanted |= {guard.id: guard for guard in (wanted.lock, wanted.ledger) if guard is not None}
        return after

    def guards(self) -> list[Guarded]:
        """What is to be committed with the jobs."""
        expected = {id_: stored.etag if stored else ABSENT for id_, stored in self.read.items()}
        return [Guarded(JOBS, guard.to_doc(), expected[id_]) for id_, guard in self.wanted.items()]

    async def _read_guards(self, job: Job, need: Needs) -> Guards:
        lock = await self._read_guard(job.product_id, lock_id(job.lock or ""), LockGuard) if need.lock else None
        ledger = await self._read_guard(job.product_id, LEDGER_ID, LedgerGuard) if need.ledger else None
        return Guards(lock, ledger)

    async def _read_guard(self, product_id: str, id_: str, model: type[G]) -> G | None:
        if id_ not in self.read:
            self.read[id_] = await read_guard(self.transactor.store, product_id, id_)
        wanted, stored = self.wanted.get(id_), self.read[id_]
        if wanted is not None:
            assert isinstance(wanted, model)
            return wanted
        return model.model_validate(stored.doc) if stored is not None else None
