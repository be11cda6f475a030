"""The terms that this factory holds: each runs in a task of its own until its report is acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from factory.engines.port import EngineAdapter
from factory.link.port import Unanswered
from factory.outbox import Outbox, Pending
from factory.ports import Launch, Trees
from factory.process import EngineProcess
from factory.session import RETRY_FIRST_S, RETRY_MAX_S, Answered, Session
from factory.term import Term, TermEnd, Tools
from factory.term_log import SendChunk
from factory.term_state import TermState
from factory.trust import TrustWindow
from factory.workspace import Saved
from runtime.clock import Clock
from schemas.errors import ErrorCode, FleetError
from schemas.messages import (
    CheckpointRequest,
    ClaimAnswer,
    Grant,
    HeldTerm,
    Holding,
    NextRequest,
    ReleaseRequest,
    ReportAnswer,
    ReportRequest,
    StartRequest,
    StopOrder,
    TermAnswer,
)
from schemas.outcome import Outcome, Result
from schemas.work import Engine

log = logging.getLogger(__name__)

END_WITHIN_S = 10.0
START_GOES_FIRST_S = 0.001  # the start is on the wire before a fork holds up the loop

TermKey = tuple[str, int]


@dataclass(frozen=True)
class HeldTermsSettings:
    terms: Path
    adapters: Mapping[Engine, EngineAdapter]
    checkpoint_every_s: float
    idle_limit_s: float
    launch: Launch = EngineProcess.start


@dataclass
class _Running:
    term: Term
    task: asyncio.Task[None]


class HeldTerms:
    """`on_free` is called whenever a seat becomes free."""

    def __init__(
        self,
        settings: HeldTermsSettings,
        session: Session,
        clock: Clock,
        workspaces: Trees,
        outbox: Outbox,
        send_log: SendChunk,
        on_free: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._session = session
        self._clock = clock
        self._workspaces = workspaces
        self._outbox = outbox
        self._send_log = send_log
        self._on_free = on_free
        self._running: dict[TermKey, _Running] = {}
        self._ended: dict[TermKey, float] = {}  # and when each may be forgotten, soonest first
        self._tasks: set[asyncio.Task[None]] = set()  # also those whose seat is free and whose tree is being tidied
        self._asked: set[str] = set()
        self._drain_by_s: float | None = None
        self.margin_s = 5.0
        self.lease_ttl_s = 60.0

    def __len__(self) -> int:
        return len(self._running)

    @property
    def pending(self) -> tuple[str, ...]:
        """Requests that went along with a report: under each a grant may be on its way."""
        return tuple(sorted(self._asked))

    def named(self) -> tuple[Holding, ...]:
        """What a heartbeat says is held."""
        return tuple(
            Holding(
                product_id=one.term.grant.product_id,
                job_id=one.term.grant.job_id,
                lease_epoch=one.term.grant.lease_epoch,
                progress_at=self._progress_at(one.term.state),
            )
            for one in self._running.values()
        )

    def is_live(self, job_id: str, lease_epoch: int) -> bool:
        """Whether the term runs, or its end is not acknowledged."""
        message = {"jobId": job_id, "leaseEpoch": lease_epoch}
        return (job_id, lease_epoch) in self._running or self._outbox.path_of(message).exists()

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
                self._give_back(grant)
        return len(answer.grants)

    def _give_back(self, grant: Grant) -> None:
        release = ReleaseRequest(**self._session.of_term(grant), outcome=Outcome.RELEASED, reason="duplicate")
        log.info("term %d of %s is one more than was asked for: it is released", grant.lease_epoch, grant.job_id)

        async def said() -> None:
            with contextlib.suppress(FleetError):
                await self._deliver(self._outbox.put("release", release.to_doc()))

        task = asyncio.create_task(said(), name=f"duplicate {grant.job_id}:{grant.lease_epoch}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def heard_term(self, told: HeldTerm, asked_at_s: float) -> None:
        """A heartbeat's answer about one term. It extends a term only once its start is acknowledged."""
        one = self._running.get((told.job_id, told.lease_epoch))
        if one is None:
            return
        state = one.term.state
        if not told.granted:
            state.heard_fenced()
        elif told.term is not None and state.start_acknowledged:
            state.trust.extend(asked_at_s, told.term.lease_left_s, self._clock.boot_s())
        if told.stop is not None:
            state.heard_stop(told.stop, self._clock.boot_s())
        one.term.poke()

    def heard_stop(self, job_id: str, lease_epoch: int, stop: StopOrder) -> None:
        one = self._running.get((job_id, lease_epoch))
        if one is not None:
            one.term.state.heard_stop(stop, self._clock.boot_s())
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

    async def settle_old_reports(self) -> None:
        """What an earlier session left unacknowledged, said under that session."""
        for pending in self._outbox.pending():
            log.info("an old %s of %s is sent again", pending.op, pending.message["jobId"])
            await self._deliver(pending)

    def _leave(self, key: TermKey) -> None:
        """Its seat is free. An answer that grants it was asked for before its end, so that a lease later no such answer
        is trusted: until then it is remembered, lest the term be started again.
        """
        if self._running.pop(key, None) is not None:
            self._ended[key] = self._clock.boot_s() + self.lease_ttl_s

    def _forget_ended(self) -> None:
        now_s = self._clock.boot_s()
        while self._ended and self._ended[oldest := next(iter(self._ended))] <= now_s:
            del self._ended[oldest]

    def _progress_at(self, state: TermState) -> datetime | None:
        if state.progress_s is None:
            return None
        return datetime.fromtimestamp(
            self._clock.now().timestamp() - (self._clock.boot_s() - state.progress_s), self._clock.now().tzinfo
        )

    def _start(self, grant: Grant, asked_at_s: float) -> None:
        trust = TrustWindow(asked_at_s, grant.term, self.margin_s, started=grant.started)
        state = TermState(grant, trust, self._settings.idle_limit_s)
        self._session.note_now(grant.term.now)
        if grant.stop is not None:
            state.heard_stop(grant.stop, self._clock.boot_s())
        if self._drain_by_s is not None:
            state.drain(self._clock.boot_s())  # it arrived too late: back at once
        tools = Tools(
            clock=self._clock,
            workspaces=self._workspaces,
            launch=self._settings.launch,
            adapter=self._settings.adapters[grant.engine],
            scratch=self._settings.terms / f"{grant.job_id}-{grant.lease_epoch}",
            factory_id=self._session.factory_id,
            session_id=self._session.session_id,
            checkpoint_every_s=self._settings.checkpoint_every_s,
            send_log=self._send_log,
            save_checkpoint=self._save_checkpoint,
        )
        term = Term(state, tools)
        key = (grant.job_id, grant.lease_epoch)
        task = asyncio.create_task(self._run(term, key), name=f"term {grant.job_id}:{grant.lease_epoch}")
        self._running[key] = _Running(term, task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, term: Term, key: TermKey) -> None:
        starting = asyncio.create_task(self._acknowledge_start(term))
        try:
            try:
                await asyncio.sleep(START_GOES_FIRST_S)
                end = await term.run()
            except Exception as error:
                log.exception("the term of %s broke", term.grant.job_id)
                end = TermEnd(Result(outcome=Outcome.ENGINE_FAILED, summary=f"the factory made a mistake: {error!r}"))
            finally:
                starting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await starting
            try:
                superseded = term.state.fenced or not await self._say_end(term, end, key)
            except FleetError as error:
                log.warning("the end of %s stays on disk for the next session: %s", term.grant.job_id, error.message)
                superseded = True
        finally:
            self._leave(key)
            self._on_free()
        await term.tidy(superseded=superseded)

    async def _acknowledge_start(self, term: Term) -> None:
        """Beside the work; until it is acknowledged, trust ends in time for the take-back."""
        request = StartRequest(**self._session.of_term(term.grant)).to_doc()
        state, wait_s = term.state, RETRY_FIRST_S
        while state.trust.holds(self._clock.boot_s()):
            asked_at_s = self._clock.boot_s()
            try:
                answer = TermAnswer.model_validate(await self._session.call("start", request))
            except Unanswered:
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_MAX_S)
                continue
            except FleetError as error:
                log.info("the start of %s was refused: %s", term.grant.job_id, error.message)
                state.heard_fenced()
            else:
                state.start_acknowledged = True
                state.trust.extend(asked_at_s, answer.term.lease_left_s, self._clock.boot_s())
                if answer.stop is not None:
                    state.heard_stop(answer.stop, self._clock.boot_s())
            term.poke()
            return

    async def _save_checkpoint(self, state: TermState, saved: Saved) -> None:
        """Told once: if nobody hears it, the commit is pushed all the same and the next one tells of more."""
        request = CheckpointRequest(
            **self._session.of_term(state.grant),
            number=state.next_checkpoint(),
            ref=saved.ref,
            commit=saved.commit,
            local=saved.local,
        )
        try:
            await self._session.call("checkpoint", request.to_doc())
        except Unanswered as error:
            log.info("a checkpoint of %s was not heard: %s", state.grant.job_id, error)
        except FleetError as error:
            log.info("a checkpoint of %s was refused: %s", state.grant.job_id, error.message)
            if error.code is ErrorCode.FENCED:
                state.heard_fenced()

    async def _say_end(self, term: Term, end: TermEnd, key: TermKey) -> bool:
        """On disk first, then until it is acknowledged. False: the term was not this holder's any more."""
        fields = {**self._session.of_term(term.grant), "checkpoint": end.checkpoint}
        if end.release:
            said = ReleaseRequest(**fields, outcome=end.result.outcome, reason=end.result.summary)
            _, accepted = await self._deliver(self._put("release", said.to_doc()))
            return accepted
        report = ReportRequest(**fields, result=end.result, insights=end.insights, session_no=self._session.session_no)
        pending = self._put("report", report.to_doc())
        request_id = self._session.request_id()
        if self._drain_by_s is None:  # asked for in the same round trip, but never on disk: it is this session's ask
            ask = NextRequest(request_id=request_id)
            pending = pending._replace(message={**pending.message, "next": ask.to_doc()})
            self._asked.add(request_id)
        try:
            answer, accepted = await self._deliver(pending)
            self._leave(key)  # its seat is the next one's now
            following = ReportAnswer.model_validate(answer.doc).next
            if following is not None:  # whatever became of the report
                self.take(following, answer.asked_at_s)
            return accepted
        finally:
            self._asked.discard(request_id)

    def _put(self, op: str, message: dict[str, Any]) -> Pending:
        """On disk; where that is full it is said all the same, and unheard, the lease ends the term."""
        try:
            return self._outbox.put(op, message)
        except OSError as error:
            log.error("the %s of %s is not on disk, only on its way: %s", op, message["jobId"], error)
            return Pending(self._outbox.path_of(message), op, message)

    async def _deliver(self, pending: Pending) -> tuple[Answered, bool]:
        """Until it is answered; and whether it was accepted, or refused for good. Raises FleetError unauthorized."""
        while True:
            try:
                answer = await self._session.insist(pending.op, pending.message)
                refusal = answer.doc.get("reportError")
            except FleetError as error:
                if error.code is ErrorCode.UNAUTHORIZED:  # the asker was refused, not what it said
                    raise
                answer, refusal = Answered({}, 0.0), error.to_doc()
            if refusal and refusal.get("code") in (ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL):
                await asyncio.sleep(RETRY_FIRST_S)
                continue
            self._outbox.settled(pending)
            if refusal:
                log.warning("the %s of %s was refused: %s", pending.op, pending.message["jobId"], refusal["message"])
            return answer, not refusal
