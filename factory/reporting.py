"""What a factory says of its terms: the start, checkpoints and the end, which is on the disk before it is said."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple

from factory.link.port import Unanswered
from factory.outbox import Outbox, Pending
from factory.ports import Saved
from factory.session import RETRY_FIRST_S, RETRY_MAX_S, Answered, Session
from factory.term import Term, TermEnd
from factory.term_state import TermState
from schemas.errors import ErrorCode, FleetError
from schemas.messages import (
    CheckpointRequest,
    ClaimAnswer,
    Grant,
    NextRequest,
    ReleaseRequest,
    ReportAnswer,
    ReportRequest,
    StartRequest,
    TermAnswer,
)
from schemas.outcome import Outcome

log = logging.getLogger(__name__)


class EndSaid(NamedTuple):
    """`accepted` false: the term was not this holder's any more. `following`: the answer to the ask that went along."""

    accepted: bool
    following: ClaimAnswer | None
    asked_at_s: float


class Reporter:
    def __init__(self, session: Session, outbox: Outbox) -> None:
        self._session = session
        self._outbox = outbox

    def is_unsaid(self, job_id: str, lease_epoch: int) -> bool:
        """Whether an end of this term is on the disk and not acknowledged."""
        return self._outbox.path_of({"jobId": job_id, "leaseEpoch": lease_epoch}).exists()

    async def say_start(self, term: Term) -> None:
        """Beside the work; until it is acknowledged, trust ends in time for the take-back."""
        request = StartRequest(**self._session.of_term(term.grant)).to_doc()
        state, wait_s = term.state, RETRY_FIRST_S
        while state.trust.holds(self._session.boot_s()):
            asked_at_s = self._session.boot_s()
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
                state.heard_start(asked_at_s, answer, self._session.boot_s())
            term.poke()
            return

    async def say_checkpoint(self, state: TermState, saved: Saved) -> None:
        """Said once: if nobody hears it, the commit is pushed all the same and the next one tells of more."""
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

    async def say_end(self, grant: Grant, end: TermEnd, session_no: int, ask: NextRequest | None) -> EndSaid:
        """On the disk first, then until it is acknowledged. `ask` goes along with a report, but never on the disk: the
        ask is this session's. Raises FleetError unauthorized.
        """
        fields = {**self._session.of_term(grant), "checkpoint": end.checkpoint}
        if end.release:
            said = ReleaseRequest(**fields, outcome=end.result.outcome, reason=end.result.summary)
            answer, accepted = await self._deliver(self._put("release", said.to_doc()))
            return EndSaid(accepted, None, answer.asked_at_s)
        report = ReportRequest(**fields, result=end.result, insights=end.insights, session_no=session_no)
        pending = self._put("report", report.to_doc())
        if ask is not None:
            pending = pending._replace(message={**pending.message, "next": ask.to_doc()})
        answer, accepted = await self._deliver(pending)
        return EndSaid(accepted, ReportAnswer.model_validate(answer.doc).next, answer.asked_at_s)

    async def give_back(self, grant: Grant) -> None:
        """Of two jobs that tries of one ask have won, one is given back. Raises FleetError unauthorized."""
        release = ReleaseRequest(**self._session.of_term(grant), outcome=Outcome.RELEASED, reason="duplicate")
        log.info("term %d of %s is one more than was asked for: it is released", grant.lease_epoch, grant.job_id)
        await self._deliver(self._outbox.put("release", release.to_doc()))

    async def say_what_is_left(self) -> None:
        """What an earlier session left unacknowledged, said under that session."""
        for pending in self._outbox.pending():
            log.info("an old %s of %s is sent again", pending.op, pending.message["jobId"])
            await self._deliver(pending)

    def _put(self, op: str, message: dict[str, Any]) -> Pending:
        """On the disk; where that is full it is said all the same, and unheard, the lease ends the term."""
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
