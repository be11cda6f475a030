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
from factory.held_terms import HeldTerms
from factory.link.failover import FailoverLink
from factory.link.port import Unanswered
from factory.session import RETRY_FIRST_S, RETRY_MAX_S, Session
from schemas.base import validation_sentence
from schemas.errors import FleetError
from schemas.factory import Transport
from schemas.messages import ClaimAnswer, ClaimRequest, Offer
from schemas.work import Engine

log = logging.getLogger(__name__)

GIVE_UP_S = 10.0
REFUSED_PAUSE_S = 1.0


class _HungUp(Exception):
    """An ask that waited for work was broken off: under its requestId there may be a grant."""


class Claiming:
    """`capabilities`: what offers it listens for; the session's opening may change them before it listens."""

    def __init__(
        self,
        session: Session,
        link: FailoverLink,
        held: HeldTerms,
        *,
        seats: int,
        capabilities: tuple[str, ...],
        engines: frozenset[Engine],
        long_poll_s: float,
    ) -> None:
        self._session = session
        self._link = link
        self._held = held
        self._seats = seats
        self.capabilities = capabilities
        self._engines = engines
        self._long_poll_s = long_poll_s
        self._pending: set[str] = set()
        self._closed = False
        self._hung_up = asyncio.Event()
        self._look = asyncio.Event()
        self._answered = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def pending(self) -> tuple[str, ...]:
        """Requests under which a grant may be on its way."""
        return tuple(sorted(self._pending))

    @property
    def seats_free(self) -> int:
        return 0 if self._closed else max(0, self._seats - len(self._held) - len(self._pending))

    def close(self) -> None:
        """No more asks; those that are under way are waited for by whoever drains."""
        self._closed = True

    def hang_up(self) -> None:
        """Asks that wait for work wait no longer. Each is repeated once more under its requestId, without waiting: a
        grant that was made but not heard is had that way, and is then known to whoever drains.
        """
        self._hung_up.set()

    def look_again(self) -> None:
        """A seat is free, or the transport changed."""
        self._look.set()

    async def listen(self, bus: Bus, products: tuple[str, ...]) -> None:
        for product_id in products:
            for capability in (ANY, *self.capabilities):
                await bus.subscribe(offer_subject(product_id, capability), self._heard_offer)

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

    async def settled(self) -> None:
        """Returns when no ask is under way any more."""
        while self._pending:
            self._answered.clear()
            await self._answered.wait()

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _request(self, **fields: Any) -> ClaimRequest:
        """Pending from here on: a heartbeat numbered above it names it, and it takes its seat."""
        request = ClaimRequest(
            **self._session.ask(), session_no=self._session.session_no, request_id=self._session.request_id(), **fields
        )
        self._pending.add(request.request_id)
        return request

    def _heard_offer(self, message: Message) -> None:
        """Advice: claimed if it fits, is fresh by the coordinator's clock, and is meant for this factory now."""
        try:
            offer = Offer.model_validate_json(message.data)
        except ValidationError as error:
            log.warning("an offer made no sense: %s", validation_sentence(error))
            return
        late = offer.expires_at <= self._session.coordinator_now()
        meant = offer.round > 1 or self._session.factory_id in offer.invited
        fits = offer.engine in self._engines and set(offer.capabilities) <= set(self.capabilities)
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
        give_up_s = self._session.boot_s() + request.wait_s + GIVE_UP_S
        wait_s = RETRY_FIRST_S
        try:
            while True:
                if request.wait_s and self._hung_up.is_set():
                    request = request.model_copy(update={"wait_s": 0.0})
                    give_up_s = self._session.boot_s() + GIVE_UP_S
                asked_at_s = self._session.boot_s()
                try:
                    answer = await self._answer(request)
                except _HungUp:
                    continue
                except Unanswered as error:
                    if self._session.boot_s() >= give_up_s:
                        log.warning("a claim is given up: %s", error)
                        return 0
                    await asyncio.sleep(wait_s)
                    wait_s = min(wait_s * 2, RETRY_MAX_S)
                    continue
                return self._held.take(answer, asked_at_s, request.max)
        finally:
            self._pending.discard(request.request_id)
            self._answered.set()

    async def _answer(self, request: ClaimRequest) -> ClaimAnswer:
        """Raises Unanswered, FleetError, and _HungUp where it still waited for work."""
        asking = asyncio.create_task(self._session.call("claim", request.to_doc()))
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
