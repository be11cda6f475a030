"""The terms that this factory holds: each runs in a task of its own until its report is acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from factory.asks import Asks
from factory.reporting import Reporter
from factory.session import OpenSession, Session
from factory.term import Term, TermEnd
from factory.term_state import TermState
from factory.trust import TrustWindow
from runtime.signals import Signal
from schemas.errors import FleetError
from schemas.messages import ClaimAnswer, Grant, HeldTerm, Holding, StopOrder

log = logging.getLogger(__name__)

END_WITHIN_S = 10.0

TermKey = tuple[str, int]
MakeTerm = Callable[[TermState], Term]


@dataclass
class _Running:
    term: Term
    task: asyncio.Task[None]


class HeldTerms:
    """`freed` is announced whenever a seat becomes free. `idle_limit_s`: silence after which an engine is stalled,
    None for none. `heard_end` is told of the end of each term."""

    def __init__(
        self,
        session: Session,
        opened: OpenSession,
        reporter: Reporter,
        asks: Asks,
        make_term: MakeTerm,
        *,
        idle_limit_s: float | None,
        heard_end: Callable[[Grant, TermEnd], None] = lambda _grant, _end: None,
    ) -> None:
        self.freed = Signal()
        self._session = session
        self._opened = opened
        self._reporter = reporter
        self._asks = asks
        self._make_term = make_term
        self._idle_limit_s = idle_limit_s
        self._heard_end = heard_end
        self._running: dict[TermKey, _Running] = {}
        self._ended: dict[TermKey, float] = {}  # and when each may be forgotten, soonest first
        self._tasks: set[asyncio.Task[None]] = set()  # also those whose seat is free and whose tree is being tidied
        self._drain_by_s: float | None = None

    def __len__(self) -> int:
        return len(self._running)

    def named(self) -> tuple[Holding, ...]:
        """What a heartbeat says is held."""
        return tuple(
            Holding(
                product_id=one.term.grant.product_id,
                job_id=one.term.grant.job_id,
                lease_epoch=one.term.grant.lease_epoch,
                progress_at=self._progress_at(one.term.state),
                phase=one.term.state.phase,
            )
            for one in self._running.values()
        )

    def is_live(self, job_id: str, lease_epoch: int) -> bool:
        """Whether the term runs, or its end is not acknowledged."""
        return (job_id, lease_epoch) in self._running or self._reporter.is_unsaid(job_id, lease_epoch)

    def take(self, answer: ClaimAnswer, asked_at_s: float, seats: int = 1) -> int:
        """Starts what an ask for so many seats was granted; a grant that was taken before is the repeat of an answer.

        Tries of one ask, at two coordinators, may win more jobs than it had seats: the others are given back.
        """
        self._forget_ended()
        for number, grant in enumerate(answer.grants):
            key = (grant.job_id, grant.lease_epoch)
            if key in self._running or key in self._ended:
                continue
            if number < seats:
                self._start(grant, asked_at_s)
            else:
                self._spawn(self._give_back(grant), f"duplicate {grant.job_id}:{grant.lease_epoch}")
        return len(answer.grants)

    def heard_term(self, told: HeldTerm, asked_at_s: float) -> None:
        """A heartbeat's answer about one term."""
        one = self._running.get((told.job_id, told.lease_epoch))
        if one is not None:
            one.term.state.heard_term(told, asked_at_s, self._session.boot_s())
            one.term.poke()

    def heard_stop(self, job_id: str, lease_epoch: int, stop: StopOrder) -> None:
        one = self._running.get((job_id, lease_epoch))
        if one is not None:
            one.term.state.heard_stop(stop, self._session.boot_s())
            one.term.poke()

    def drain(self, by_s: float) -> None:
        self._drain_by_s = by_s
        for one in self._running.values():
            one.term.state.drain(by_s)
            one.term.poke()

    async def settled(self) -> None:
        """Returns when every term is reported and over, and its tree tidied."""
        while self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def fence_all(self) -> None:
        """The session is over: every engine ends now, and nothing more is said."""
        tasks = list(self._tasks)
        for one in self._running.values():
            one.term.state.heard_fenced()
            one.term.poke()
        if tasks:
            await asyncio.wait(tasks, timeout=END_WITHIN_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _give_back(self, grant: Grant) -> None:
        with contextlib.suppress(FleetError):
            await self._reporter.give_back(grant)

    def _leave(self, key: TermKey) -> None:
        """Its seat is free. The term is remembered for one lease, because a delayed answer may still grant it."""
        if self._running.pop(key, None) is not None:
            self._ended[key] = self._session.boot_s() + self._opened.lease_ttl_s

    def _forget_ended(self) -> None:
        now_s = self._session.boot_s()
        while self._ended and self._ended[oldest := next(iter(self._ended))] <= now_s:
            del self._ended[oldest]

    def _progress_at(self, state: TermState) -> datetime | None:
        if state.progress_s is None:
            return None
        now = self._session.now()
        return datetime.fromtimestamp(now.timestamp() - (self._session.boot_s() - state.progress_s), now.tzinfo)

    def _start(self, grant: Grant, asked_at_s: float) -> None:
        trust = TrustWindow(asked_at_s, grant.term, self._opened.trust_margin_s, started=grant.started)
        state = TermState(grant, trust, self._idle_limit_s)
        self._session.note_now(grant.term.now)
        if grant.stop is not None:
            state.heard_stop(grant.stop, self._session.boot_s())
        if self._drain_by_s is not None:
            state.drain(self._session.boot_s())  # it arrived too late: back at once
        term, key = self._make_term(state), (grant.job_id, grant.lease_epoch)
        self._running[key] = _Running(
            term, self._spawn(self._run(term, key), f"term {grant.job_id}:{grant.lease_epoch}")
        )

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, term: Term, key: TermKey) -> None:
        starting = asyncio.create_task(self._reporter.say_start(term))
        try:
            try:
                end = await term.run()
            finally:
                starting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await starting
            self._heard_end(term.grant, end)
            superseded = term.state.fenced or not await self._say_end(term.grant, end, key)
        finally:
            self._leave(key)
            self.freed.announce()
        await term.tidy(end, superseded=superseded)

    async def _say_end(self, grant: Grant, end: TermEnd, key: TermKey) -> bool:
        """False: the term was not this holder's any more, or nobody may say so for now."""
        with self._asks.along_with_a_report() as ask:
            try:
                said = await self._reporter.say_end(grant, end, self._opened.number, ask)
            except FleetError as error:
                log.warning("the end of %s stays on disk for the next session: %s", grant.job_id, error.message)
                return False
            if not end.release:
                self._leave(key)  # its seat is the next one's now
            if said.following is not None:  # whatever became of the report
                self.take(said.following, said.asked_at_s)
            return said.accepted
