"""Calls that are held open for work, so that a crowd costs no more than the one of it that gets the job.

A job wakes the call whose factory it fits best, by what is known in memory; only that one asks the store. If it fails,
the next best is woken: each looks at most once for each change.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from coordinator.dispatch.precedence import PrecedenceTable
from coordinator.dispatch.ready import ReadyIndex
from coordinator.dispatch.roster import Roster
from coordinator.scheduler.feasible import job_obstacles, obstacles
from coordinator.scheduler.plan import tier
from coordinator.scheduler.score import score
from coordinator.scheduler.snapshot import FactoryView, Snapshot
from runtime.clock import Clock
from schemas.errors import ErrorCode, FleetError
from schemas.factory import FactoryDoc
from schemas.ids import JobKey
from schemas.job import Job
from schemas.messages import ClaimRequest

OF_THE_JOB = frozenset({ErrorCode.CONFLICT, ErrorCode.BUDGET_PAUSED})  # refusals that meet every asker alike


def view_of(
    factory: FactoryDoc, request: ClaimRequest, held: int, last_repos: frozenset[str] = frozenset()
) -> FactoryView:
    """The asking factory: its enrolment, narrowed to what its request says it has. An asker counts as alive."""
    said = factory.capabilities if request.capabilities is None else request.capabilities
    engines = factory.engines if request.engines is None else request.engines
    own = {
        "capabilities": tuple(sorted(set(said) & set(factory.enrolled_capabilities))),
        "engines": tuple(engines),
        "seats_used": 0,  # what is counted is newer than what it last said
    }
    return FactoryView.of(factory.model_copy(update=own), seats_used=held, last_repos=last_repos)


@dataclass(eq=False)
class _Waiter:
    """One call. `seen`: the change up to which it has looked in vain."""

    request: ClaimRequest
    seen: int
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    _made_of: tuple[FactoryDoc, int, frozenset[str]] | None = None
    _view: FactoryView | None = None

    def view(self, factory: FactoryDoc, held: int, last_repos: frozenset[str]) -> FactoryView:
        """Kept while nothing of it changed."""
        known = self._made_of
        if self._view is None or known is None or known[0] is not factory or known[1:] != (held, last_repos):
            self._made_of = factory, held, last_repos
            self._view = view_of(factory, self.request, held, last_repos)
        return self._view


class Waiters:
    """`changes` counts what might give somebody work. `promise_s`: how long a job is left to the call that it woke."""

    def __init__(
        self, ready: ReadyIndex, roster: Roster, precedence: PrecedenceTable, clock: Clock, promise_s: float
    ) -> None:
        self.changes = 0
        self._ready = ready
        self._roster = roster
        self._precedence = precedence
        self._clock = clock
        self._promise_s = promise_s
        self._waiting: dict[_Waiter, None] = {}
        self._asks: dict[JobKey, asyncio.Event] = {}  # set when the ask that is at the job is over
        self._match_soon: asyncio.Handle | None = None
        self._due: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> set[str]:
        """The factories that hold a call open."""
        return {waiter.request.factory_id for waiter in self._waiting}

    @contextmanager
    def first_at(self, key: JobKey) -> Iterator[None]:
        """Around an ask for a job that no other ask of this process is at. Others pass the job over meanwhile; they
        look again if the ask fails for a reason that is not the job's own.
        """
        self._precedence.begin_ask(key)
        over = self._asks[key] = asyncio.Event()
        look_again = True
        try:
            yield
            look_again = False
        except FleetError as error:
            look_again = error.code not in OF_THE_JOB
            raise
        finally:
            del self._asks[key]
            passed_over = self._precedence.end_ask(key)
            over.set()
            if look_again and passed_over:
                self.changed()

    async def ask_is_over(self, key: JobKey) -> None:
        """Returns when no ask is at the job any more: all that wait here go on together."""
        if key in self._asks:
            await self._asks[key].wait()

    def set_aside(self, key: JobKey, until_s: float) -> None:
        """Another coordinator made it claimable a moment ago, and is offering it."""
        self._precedence.set_aside(key, until_s)
        self._look_at(until_s)

    def take_back(self, key: JobKey) -> None:
        """This coordinator made it claimable: it is everybody's here."""
        if self._precedence.take_back(key):
            self.changed()

    async def wait(self, request: ClaimRequest, seen: int, timeout_s: float, gone: asyncio.Future[None] | None) -> bool:
        """Waits until something changed since `seen`. False: the time is over, or the client hung up (`gone`)."""
        waiter = _Waiter(request, seen)
        self._waiting[waiter] = None
        self._look_soon()
        woken = asyncio.create_task(waiter.woken.wait())
        heard: set[asyncio.Future[Any]] = {woken} if gone is None else {woken, gone}
        goes_on = False
        try:
            await asyncio.wait(heard, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            goes_on = waiter.woken.is_set() and not (gone is not None and gone.done())
            return goes_on
        finally:
            woken.cancel()
            del self._waiting[waiter]
            if waiter.woken.is_set() and not goes_on:
                self.looked(request)

    def looked(self, request: ClaimRequest) -> None:
        """The asker has looked. A job that it was woken for and did not take may be another's."""
        self._precedence.withdraw(request.factory_id)
        self._look_soon()

    def dismiss(self) -> None:
        """Every call looks a last time."""
        for waiter in self._waiting:
            waiter.woken.set()

    def changed(self) -> None:
        """Somebody might find work who found none before."""
        self.changes += 1
        self._look_soon()

    def match_if_due(self) -> None:
        """Does now what is about to be done."""
        if self._match_soon is not None:
            self._match_soon.cancel()
            self._match()

    def _match(self) -> None:
        """Wakes one waiter for each job that fits any."""
        self._match_soon = None
        now_s = self._clock.boot_s()
        if self._precedence.end_due(now_s):
            self.changes += 1
        idle = [one for one in self._waiting if one.seen < self.changes and not one.woken.is_set()]
        snapshot = Snapshot(now=self._clock.now(), factories=(), locks=self._ready.locks())
        hopeless: set[Hashable] = set()
        for job in self._unpromised(snapshot, now_s) if idle else ():
            kind = kind_of(job)
            if kind in hopeless or job_obstacles(job, snapshot):
                continue
            fitting = [one for one in idle if self._fits(job, one, snapshot)]
            if not fitting:
                hopeless.add(kind)
                continue
            best = max(fitting, key=lambda one: score(job, self._view(one), snapshot).total)
            best.woken.set()
            idle.remove(best)
            self._precedence.promise(job.key, best.request.factory_id, now_s + self._promise_s)
            self._look_at(now_s + self._promise_s)  # the one that was woken may take another job, or fail

    def _unpromised(self, snapshot: Snapshot, now_s: float) -> list[Job]:
        """The jobs that nobody goes first for, most urgent first. One that an ask is at is noted as passed over."""
        found = []
        for job in self._ready.queued():
            if self._precedence.is_set_aside(job.key, now_s) or self._precedence.is_promised(job.key, now_s):
                continue
            if self._precedence.is_asked(job.key):
                self._precedence.pass_over(job.key)
            else:
                found.append(job)
        return sorted(found, key=lambda job: (tier(job, snapshot.now), job.waiting_since, job.id))

    def _look_soon(self) -> None:
        if self._match_soon is None and self._waiting:
            self._match_soon = asyncio.get_running_loop().call_soon(self._match)

    def _look_at(self, when_s: float) -> None:
        """One timer, at the next moment when somebody's first go is over."""
        loop = asyncio.get_running_loop()
        loop_s = loop.time() + max(0.0, when_s - self._clock.boot_s())
        if self._due is not None:
            if self._due.when() <= loop_s:
                return
            self._due.cancel()
        self._due = loop.call_at(loop_s, self._is_due)

    def _is_due(self) -> None:
        self._due = None
        if self._precedence.end_due(self._clock.boot_s()):
            self.changes += 1
        self._look_soon()
        next_s = self._precedence.next_due_s()
        if next_s < math.inf:
            self._look_at(next_s)

    def _fits(self, job: Job, waiter: _Waiter, snapshot: Snapshot) -> bool:
        asked = waiter.request.product_id
        return asked in (None, job.product_id) and not obstacles(job, self._view(waiter), snapshot)

    def _view(self, waiter: _Waiter) -> FactoryView:
        """By what is known now: seats were freed, and enrolments changed, since it asked."""
        entry = self._roster.get(waiter.request.factory_id)
        assert entry is not None, "an asker was noted when its claim was looked at"
        return waiter.view(entry.doc, self._ready.count_held_by(entry.doc.id), frozenset(entry.last_repos))


def kind_of(job: Job) -> Hashable:
    """Jobs of one kind fit the same factories."""
    local = job.checkpoint.local if job.checkpoint is not None else None
    return job.product_id, job.engine, frozenset(job.capabilities), job.cwd, local
