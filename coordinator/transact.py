"""The write path, the only one: read, decide, one conditional commit; doubt is settled by reading.

The clock and chance are read once, at the first try, so that the same document meets the same decision on
every try. After any answer that is not a clean yes the job is read again: the write applied if and only if an
event above the `seq` first read carries its op id. No refusal rests on a read that another read could contradict:
guards are read before the job, and a refusal that they took part in is checked against the job once more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from coordinator.domain.guards import Guards, needs, settle
from coordinator.domain.job import decide
from coordinator.domain.ops import Op, Rejected
from coordinator.projector import Projector
from coordinator.store.port import ABSENT, JOBS, Derived, Guarded, Indefinite, Store, StoreError, Throttled
from coordinator.store.queries import StoredJob, event_with_op, events_after, read_guard, read_job
from runtime.clock import Clock
from runtime.entropy import Entropy
from runtime.queues import KeyedQueues
from schemas.errors import ErrorCode, FleetError
from schemas.guards import LedgerGuard, LockGuard
from schemas.ids import LEDGER_ID, JobKey, lock_id
from schemas.job import Job
from schemas.projections import EventDoc

log = logging.getLogger(__name__)

TRIES_MAX = 12
BACKOFF_FIRST_S = 0.005
BACKOFF_MAX_S = 0.5


@dataclass(frozen=True)
class Applied:
    """The operation took effect: now, or (`repeated`) when it was first asked. `event` tells of it."""

    job: Job
    event: EventDoc
    repeated: bool = False


@dataclass(frozen=True)
class _Step:
    """What one try would commit: the next job, and the guards that go with it."""

    after: Job
    guards: tuple[Guarded, ...] = ()


class Transactor:
    def __init__(
        self, store: Store, clock: Clock, entropy: Entropy, projector: Projector, *, budgets: bool = False
    ) -> None:
        self._store = store
        self._budgets = budgets
        self._clock = clock
        self._entropy = entropy
        self._projector = projector
        self._queues = KeyedQueues()

    async def transact(self, key: JobKey, op: Op) -> Applied | Rejected:
        """Raises FleetError(unavailable) where it cannot be known in time whether it happened."""
        async with self._queues.turn(key):
            return await self._tries(key, op)

    async def create(self, job: Job) -> Applied | None:
        """A first commit, of a job that carries its first event. None: the id is taken, by whatever."""
        op_id = job.outbox[0].op_id
        doubt = False
        for tries in range(TRIES_MAX):
            try:
                stored = await read_job(self._store, job.key)
                if stored is not None:
                    if tries == 0 or stored.job.manifest_sha256 != job.manifest_sha256:
                        return None  # the op id is that of any submit under this key: the manifest tells whose
                    mine = await self._event_of(stored.job, op_id)
                    return await self._recovered(stored.job, mine, above=0) if mine else None
                written = await self._store.commit(
                    [Guarded(JOBS, self._to_write(job).to_doc(), ABSENT)], await self._then(job)
                )
                if written.ok:
                    return await self._committed(job, job.outbox, job.outbox[0])
            except Indefinite as trouble:
                doubt = True
                await self._pause(tries, trouble)
            except StoreError as trouble:
                if doubt:
                    raise _unresolved(job.key) from trouble
                raise
        raise _unresolved(job.key)

    async def _tries(self, key: JobKey, op: Op) -> Applied | Rejected:
        first_seq: int | None = None
        now: datetime | None = None
        doubt = False
        for tries in range(TRIES_MAX):
            try:
                stored = await read_job(self._store, key)
                if stored is None:
                    return Rejected("not_found", f"there is no job {key.job_id} in product {key.product_id}")
                first_seq = stored.job.seq if first_seq is None else first_seq
                done = await self._already(stored.job, op, first_seq, tries)
                if done is not None:
                    return done
                async with self._turn_at_guards(stored.job):
                    now = now or self._clock.now()  # once, and not before its turn: waiting is no part of a grant
                    step = await self._decide(stored, op, now)
                    if isinstance(step, Rejected):
                        return await self._answered_before(key, op) or step
                    done = await self._commit(stored, step, op) if step is not None else None
                if done is not None:
                    return done
                await self._pause(tries)
            except Indefinite as trouble:
                doubt = True
                await self._pause(tries, trouble)
            except StoreError as trouble:
                if doubt:  # definite for this try, but an earlier one may still land
                    raise _unresolved(key) from trouble
                raise
        raise _unresolved(key)

    @asynccontextmanager
    async def _turn_at_guards(self, job: Job) -> AsyncIterator[None]:
        """Always in the same order, so that nobody waits in a circle."""
        async with AsyncExitStack() as turns:
            if job.lock is not None:
                await turns.enter_async_context(self._queues.turn(("lock", job.product_id, job.lock)))
            if self._budgets:
                await turns.enter_async_context(self._queues.turn(("ledger", job.product_id)))
            yield

    async def _already(self, job: Job, op: Op, first_seq: int, tries: int) -> Applied | None:
        """Our own earlier try that did apply; or, for what might be legal anew, the asker's earlier ask."""
        if tries > 0 and job.seq > first_seq:
            event = await self._event_of(job, op.id, above=first_seq)
            if event is not None:
                return await self._recovered(job, event, above=first_seq)
        if op.may_be_legal_again:
            event = await self._event_of(job, op.id)
            if event is not None:
                return Applied(job, event, repeated=True)
        return None

    async def _decide(self, stored: StoredJob, op: Op, now: datetime) -> _Step | Rejected | None:
        """None: the job moved on between the reads, so that a refusal would rest on a stale one."""
        decided = decide(stored.job, op, now)
        if isinstance(decided, Rejected):
            return decided
        need = needs(stored.job, decided, budgets=self._budgets)
        if not any(need):
            return _Step(decided)
        lock = await read_guard(self._store, decided.product_id, lock_id(decided.lock or "")) if need.lock else None
        ledger = await read_guard(self._store, decided.product_id, LEDGER_ID) if need.ledger else None
        again = await read_job(self._store, decided.key)  # guards first, the job last
        if again is None or again.etag != stored.etag:
            return None
        guards = Guards(
            lock=LockGuard.model_validate(lock.doc) if lock else None,
            ledger=LedgerGuard.model_validate(ledger.doc) if ledger else None,
        )
        settled = settle(stored.job, decided, guards, need)
        if isinstance(settled, Rejected):
            return settled
        after, wanted = settled
        writes = [
            Guarded(JOBS, guard.to_doc(), read.etag if read else ABSENT)
            for guard, read in ((wanted.lock, lock), (wanted.ledger, ledger))
            if guard is not None
        ]
        return _Step(after, tuple(writes))

    async def _commit(self, stored: StoredJob, step: _Step, op: Op) -> Applied | None:
        after = step.after.model_copy(update={"rev": stored.job.rev + 1})
        events = tuple(event for event in after.outbox if event.seq > stored.job.seq)
        written = await self._store.commit(
            [Guarded(JOBS, self._to_write(after).to_doc(), stored.etag), *step.guards],
            await self._then(after),
        )
        if not written.ok:
            return None
        own = next(event for event in events if event.op_id == op.id)
        return await self._committed(after, events, own)

    def _to_write(self, job: Job) -> Job:
        if self._store.atomic_then:
            return job.model_copy(update={"outbox": (), "pending_events": 0})
        return self._projector.trimmed(job)

    async def _then(self, job: Job) -> list[Derived]:
        return await self._projector.derive(job) if self._store.atomic_then else []

    async def _committed(self, job: Job, events: tuple[EventDoc, ...], own: EventDoc) -> Applied:
        if not self._store.atomic_then:
            await self._projector.project(job)
        self._projector.after_commit(job, events)
        return Applied(job, own)

    async def _recovered(self, job: Job, own: EventDoc, above: int) -> Applied:
        """A write of ours whose answer was lost: what follows a commit is made up for."""
        kept = [event for event in job.outbox if event.seq > above]
        events = kept or [event for event in await events_after(self._store, job.id, above) if event.seq <= own.seq]
        return await self._committed(job, tuple(events), own)

    async def _event_of(self, job: Job, op_id: str, above: int = 0) -> EventDoc | None:
        """In the whole history above `above`: the outbox first, since an event leaves it only once it is projected."""
        for event in reversed(job.outbox):
            if event.op_id == op_id and event.seq > above:
                return event
        return await event_with_op(self._store, job.id, op_id, above)

    async def _answered_before(self, key: JobKey, op: Op) -> Applied | None:
        """The repeat of something that was accepted is answered as before."""
        stored = await read_job(self._store, key)
        if stored is None:
            return None
        event = await self._event_of(stored.job, op.id)
        return None if event is None else Applied(stored.job, event, repeated=True)

    async def _pause(self, tries: int, trouble: Indefinite | None = None) -> None:
        wait_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2**tries) * (0.5 + self._entropy.fraction())
        if isinstance(trouble, Throttled):
            wait_s = max(wait_s, min(trouble.retry_after_s, BACKOFF_MAX_S * 4))
        await asyncio.sleep(wait_s)


async def history(store: Store, key: JobKey, after: int = 0) -> list[EventDoc] | None:
    """The events of a job above `after`, in order, those still in its outbox included. None: no such job."""
    stored = await read_job(store, key)
    if stored is None:
        return None
    events = {event.seq: event for event in stored.job.outbox}
    last = after
    while page := await events_after(store, key.job_id, last):
        events |= {event.seq: event for event in page}
        last = page[-1].seq
    # what was projected since the job was read may have gaps: it is had by the next look
    return [events[seq] for seq in sorted(events) if after < seq <= stored.job.seq]


def _unresolved(key: JobKey) -> FleetError:
    return FleetError(
        ErrorCode.UNAVAILABLE,
        f"it is not known whether the change of {key.job_id} was stored: ask again with the same key",
        jobId=key.job_id,
    )
