"""Who goes first for a job that can be claimed, so that a crowd costs no more than the one that gets it.

Calls that are held open for work wait here. A job wakes the one whom it fits best, by what is known in memory; only
that one asks the store. If it fails, the next best is woken: each looks at most once for each change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from coordinator.ready import ReadyIndex
from coordinator.roster import Roster
from coordinator.scheduler.feasible import job_obstacles, obstacles
from coordinator.scheduler.plan import tier
from coordinator.scheduler.score import score
from coordinator.scheduler.snapshot import FactoryView, Snapshot
from runtime.clock import Clock
from schemas.factory import FactoryDoc
from schemas.ids import JobKey
from schemas.job import Job
from schemas.messages import ClaimRequest


def view_of(
    factory: FactoryDoc, request: ClaimRequest, held: int, last_repos: frozenset[str] = frozenset()
) -> FactoryView:
    """The claimant: what it is enrolled for, narrowed to what it says it has. It asks, so it is there."""
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
    """`looked`: the change up to which it has looked in vain."""

    request: ClaimRequest
    looked: int
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


class Claimants:
    """`being_claimed`: jobs that an ask of this process is at; each event is set when it is over. `changes` counts
    what might give somebody work.
    `given_s`: for how long a job is left to the waiter that it woke.
    """

    def __init__(self, ready: ReadyIndex, roster: Roster, clock: Clock, given_s: float) -> None:
        self.being_claimed: dict[JobKey, asyncio.Event] = {}
        self.changes = 0
        self._ready = ready
        self._roster = roster
        self._clock = clock
        self._given_s = given_s
        self._given: dict[JobKey, tuple[_Waiter, float]] = {}
        self._left_alone_s: dict[JobKey, float] = {}
        self._passed_over: set[JobKey] = set()  # by somebody else, while an ask was at them
        self._waiting: dict[_Waiter, None] = {}
        self._look: asyncio.Handle | None = None
        self._look_later: asyncio.TimerHandle | None = None
        self._leave_later: asyncio.TimerHandle | None = None
        ready.on_change(self._changed)

    # -- jobs --

    def claimable(self) -> list[Job]:
        """What is queued, and nobody else's to claim first."""
        now_s = self._clock.boot_s()
        return [job for job in self._ready.queued() if self._left_alone_s.get(job.key, 0.0) <= now_s]

    @contextmanager
    def claiming(self, key: JobKey) -> Iterator[None]:
        """Around an ask for a job that no other ask of this process is at."""
        assert key not in self.being_claimed, key
        over = self.being_claimed[key] = asyncio.Event()
        try:
            yield
        finally:
            del self.being_claimed[key]
            self._passed_over.discard(key)
            over.set()

    def pass_over(self, key: JobKey) -> bool:
        """Whether another ask is at it, so that a second one could only lose."""
        if key in self.being_claimed:
            self._passed_over.add(key)
        return key in self.being_claimed

    def not_taken(self, key: JobKey) -> None:
        """The ask that is at it came to nothing, for reasons of its own: whoever passed the job over looks again."""
        if key in self._passed_over:
            self._changed()

    def leave_alone(self, key: JobKey, until_s: float) -> None:
        """Another coordinator made it claimable a moment ago, and is offering it. `until_s`: since boot."""
        self._left_alone_s[key] = until_s
        if self._leave_later is None:
            left_s = max(0.0, until_s - self._clock.boot_s())
            self._leave_later = asyncio.get_running_loop().call_later(left_s, self._leave_no_longer_now)

    def leave_no_longer(self, *keys: JobKey) -> None:
        """These, and those whose time is over, are everybody's."""
        now_s = self._clock.boot_s()
        over = {key for key, until_s in self._left_alone_s.items() if until_s <= now_s or key in keys}
        for key in over:
            del self._left_alone_s[key]
        if over:
            self._changed()

    def _leave_no_longer_now(self) -> None:
        self._leave_later = None
        self.leave_no_longer()
        if self._left_alone_s:
            key, until_s = min(self._left_alone_s.items(), key=lambda item: item[1])
            self.leave_alone(key, until_s)

    # -- calls held open --

    @property
    def waiting(self) -> set[str]:
        """The factories that hold one open."""
        return {waiter.request.factory_id for waiter in self._waiting}

    def is_given(self, job: Job) -> bool:
        """Whether it has just woken somebody who holds a call open: it is about to be claimed without an offer."""
        if self._look is not None:
            self._look.cancel()
            self._wake_the_best()
        return job.key in self._given

    async def wait(
        self, request: ClaimRequest, looked: int, timeout_s: float, gone: asyncio.Future[None] | None
    ) -> bool:
        """Whether to look again, before the time is over or the asker is `gone`. `looked`: `changes` before the last
        look, so that nothing falls between.
        """
        waiter = _Waiter(request, looked)
        self._waiting[waiter] = None
        self.looked(request)
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
                self._given = {key: given for key, given in self._given.items() if given[0] is not waiter}
                self._look_soon()

    def looked(self, request: ClaimRequest) -> None:
        """Its look is over, whatever it came to: what it was woken for and did not take may be another's."""
        asker = request.factory_id
        self._given = {key: given for key, given in self._given.items() if given[0].request.factory_id != asker}
        self._look_soon()

    def dismiss(self) -> None:
        """Everybody looks a last time, whatever there is."""
        for waiter in self._waiting:
            waiter.woken.set()

    def _changed(self) -> None:
        self.changes += 1
        self._look_soon()

    def _look_soon(self) -> None:
        if self._look is None and self._waiting:
            self._look = asyncio.get_running_loop().call_soon(self._wake_the_best)

    def _wake_the_best(self) -> None:
        """One waiter for each job that fits any."""
        self._look = None
        now_s = self._clock.boot_s()
        self._given = {key: given for key, given in self._given.items() if given[1] > now_s}
        idle = [one for one in self._waiting if one.looked < self.changes and not one.woken.is_set()]
        jobs = [job for job in self.claimable() if job.key not in self._given] if idle else []
        jobs = [job for job in jobs if not self.pass_over(job.key)]
        snapshot = Snapshot(now=self._clock.now(), factories=(), locks=self._ready.locks())
        jobs.sort(key=lambda job: (tier(job, snapshot.now), job.waiting_since, job.id))
        hopeless: set[Hashable] = set()
        for job in jobs:
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
            self._given[job.key] = best, now_s + self._given_s
        if self._given and self._look_later is None:  # who was woken may take another, or fail
            self._look_later = asyncio.get_running_loop().call_later(self._given_s, self._look_again)

    def _look_again(self) -> None:
        self._look_later = None
        self._look_soon()

    def _fits(self, job: Job, waiter: _Waiter, snapshot: Snapshot) -> bool:
        asked = waiter.request.product_id
        return asked in (None, job.product_id) and not obstacles(job, self._view(waiter), snapshot)

    def _view(self, waiter: _Waiter) -> FactoryView:
        """By what is known now: seats were freed, and enrolments changed, since it asked."""
        entry = self._roster.get(waiter.request.factory_id)
        assert entry is not None, "whoever asks was noted"
        return waiter.view(entry.doc, self._ready.count_held_by(entry.doc.id), frozenset(entry.last_repos))


def kind_of(job: Job) -> Hashable:
    """Jobs of one kind fit the same factories."""
    local = job.checkpoint.local if job.checkpoint is not None else None
    return job.product_id, job.engine, frozenset(job.capabilities), job.cwd, local
