"""Claiming for work: offers wake an idle seat over the bus, a long-poll waits over REST.

An ask that is not answered occupies a seat: under its requestId there may be a grant.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from pydantic import ValidationError

from bus.port import Bus, Message
from bus.subjects import ANY, offer_subject
from factory.asks import Asks
from factory.held_terms import HeldTerms
from factory.link.failover import FailoverLink
from factory.link.port import Unanswered
from factory.session import RETRY_FIRST_S, RETRY_MAX_S, OpenSession, Session
from schemas.base import validation_sentence
from schemas.errors import FleetError
from schemas.factory import Transport
from schemas.messages import ClaimAnswer, ClaimRequest, Offer
from schemas.work import Engine

log = logging.getLogger(__name__)

GIVE_UP_S = 10.0
REFUSED_PAUSE_S = 1.0


class _HungUp(Exception):
    """The factory broke off an ask that waited for work. Under its requestId there may be a grant."""


class Claiming:
    """Offers wake an idle seat over the bus; over REST a call is held open for work."""

    def __init__(
        self,
        session: Session,
        opened: OpenSession,
        link: FailoverLink,
        asks: Asks,
        held: HeldTerms,
        *,
        seats: int,
        engines: frozenset[Engine],
        long_poll_s: float,
    ) -> None:
        self.session = session
        self._opened = opened
        self._link = link
        self._asks = asks
        self.held = held
        self._seats = seats
        self._engines = engines
        self._long_poll_s = long_poll_s
        self._hung_up = asyncio.Event()
        self._look = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def seats_free(self) -> int:
        return 0 if self._asks.is_closed else max(0, self._seats - len(self.held) - len(self._asks))

    def hang_up(self) -> None:
        """Asks that wait for work wait no longer. Each is repeated once more under its requestId, without waiting: a
        grant that was made but not heard is had that way, and is then known to the drain.
        """
        self._hung_up.set()

    def look_again(self) -> None:
        """A seat is free, or the transport changed."""
        self._look.set()

    async def subscribe(self, bus: Bus) -> None:
        """To the offers of its products for what it is entitled to."""
        for product_id in self._opened.products:
            for capability in (ANY, *self._opened.capabilities):
                await bus.subscribe(offer_subject(product_id, capability), self.heard_offer)

    async def run(self) -> None:
        """Pulls once when a seat becomes free or the transport changes; over REST, waits there for work."""
        while True:
            self._look.clear()
            rest = self._link.transport is Transport.REST
            if self.seats_free:
                request = self._request(max=self.seats_free, wait_s=self._long_poll_s if rest else 0.0)
                try:
                    granted = await self._claim(request)
                except FleetError as error:
                    log.warning("a claim was refused: %s", error.message)
                    await asyncio.sleep(REFUSED_PAUSE_S)
                    continue
                if granted or rest:
                    continue
            await self._look.wait()

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _request(self, **fields: Any) -> ClaimRequest:
        """Pending from here on: a heartbeat numbered above it names it, and it takes its seat."""
        ask, request_id = self.session.ask(), self._asks.begin()
        return ClaimRequest(**ask, session_no=self._opened.number, request_id=request_id, **fields)

    def heard_offer(self, message: Message) -> None:
        """Advice: claimed if it fits, is fresh by the coordinator's clock, and is meant for this factory now."""
        try:
            offer = Offer.model_validate_json(message.data)
        except ValidationError as error:
            log.warning("an offer made no sense: %s", validation_sentence(error))
            return
        late = offer.expires_at <= self.session.coordinator_now()
        meant = offer.round > 1 or self.session.factory_id in offer.invited
        fits = offer.engine in self._engines and set(offer.capabilities) <= set(self._opened.capabilities)
        if late or not meant or not fits or self.seats_free == 0:
            return
        request = self._request(product_id=offer.product_id, job_id=offer.job_id)
        task = asyncio.create_task(self._claim_offered(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _claim_offered(self, request: ClaimRequest) -> None:
        with contextlib.suppress(FleetError):  # somebody else was faster: so it is with offers
            await self._claim(request)

    async def _claim(self, request: ClaimRequest) -> int:
        """Starts what is granted; gives how many. Repeated under the same requestId until answered or given up."""
        give_up_s = self.session.boot_s() + request.wait_s + GIVE_UP_S
        wait_s = RETRY_FIRST_S
        try:
            while True:
                if request.wait_s and self._hung_up.is_set():
                    request = request.model_copy(update={"wait_s": 0.0})
                    give_up_s = self.session.boot_s() + GIVE_UP_S
                asked_at_s = self.session.boot_s()
                try:
                    answer = await self._answer(request)
                except _HungUp:
                    continue
                except Unanswered as error:
                    if self.session.boot_s() >= give_up_s:
                        log.warning("a claim is given up: %s", error)
                        return 0
                    await asyncio.sleep(wait_s)
                    wait_s = min(wait_s * 2, RETRY_MAX_S)
                    continue
                return self.held.take(answer, asked_at_s, request.max)
        finally:
            self._asks.end(request.request_id)

    async def _answer(self, request: ClaimRequest) -> ClaimAnswer:
        """Raises Unanswered, FleetError, and _HungUp where it still waited for work."""
        asking = asyncio.create_task(self.session.call("claim", request.to_doc()))
        hung_up = asyncio.create_task(self._hung_up.wait())
        try:
            if request.wait_s:
                await asyncio.wait({asking, hung_up}, return_when=asyncio.FIRST_COMPLETED)
                if not asking.done():
                    raise _HungUp
            return ClaimAnswer.model_validate(await asking)
        finally:
            hung_up.cancel()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
