"""The heartbeat: the factory lives, and holds these terms. The answer renews them, and says which are over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from factory.asks import Asks
from factory.held_terms import HeldTerms
from factory.link.failover import FailoverLink
from factory.link.port import Unanswered
from factory.opening import FencedSession, MachineWords
from factory.session import OpenSession, Session
from schemas.errors import ErrorCode, FleetError
from schemas.messages import HeartbeatAnswer, HeartbeatRequest

log = logging.getLogger(__name__)

BEAT_UNSURE_S = 0.1  # doubled each time


class Heartbeat:
    """`is_draining` and `unfit` are asked at each beat."""

    def __init__(
        self,
        machine: MachineWords,
        session: Session,
        opened: OpenSession,
        link: FailoverLink,
        asks: Asks,
        held: HeldTerms,
        is_draining: Callable[[], bool],
        unfit: Callable[[], str | None],
    ) -> None:
        self._machine = machine
        self._session = session
        self._opened = opened
        self._link = link
        self._asks = asks
        self._held = held
        self._is_draining = is_draining
        self._unfit = unfit
        self._now = asyncio.Event()

    def beat_now(self) -> None:
        self._now.set()

    async def run(self) -> None:
        """For ever; sooner while it is not sure that the coordinators hear it on the bus. Raises FencedSession."""
        unsure_s = BEAT_UNSURE_S
        while True:
            self._now.clear()
            await self.beat()
            if self._link.settled:
                wait_s, unsure_s = self._opened.heartbeat_s, BEAT_UNSURE_S
            else:
                wait_s, unsure_s = unsure_s, min(unsure_s * 2, self._opened.heartbeat_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._now.wait()

    async def beat(self) -> None:
        """Once. Raises FencedSession."""
        asked_at_s, vitals = self._session.boot_s(), self._machine.vitals()
        request = HeartbeatRequest(
            **self._session.ask(),
            session_no=self._opened.number,
            holding=self._held.named(),
            pending=self._asks.pending,
            seat_limit=self._machine.seats,
            seats_used=len(self._held),
            load=vitals.load,
            transport=self._link.transport,
            draining=self._is_draining(),
            unfit=self._unfit(),
            free_disk_bytes=vitals.free_disk_bytes,
        )
        try:
            answer = HeartbeatAnswer.model_validate(await self._session.call("heartbeat", request.to_doc()))
        except Unanswered as error:
            log.warning("the heartbeat was not answered: %s", error)
            return
        except FleetError as error:
            log.warning("the heartbeat was refused: %s", error.message)
            if error.code in (ErrorCode.FENCED, ErrorCode.UNAUTHORIZED):
                raise FencedSession(error.message) from error
            return
        self._session.note_now(answer.now)
        for told in answer.terms:
            self._held.heard_term(told, asked_at_s)
