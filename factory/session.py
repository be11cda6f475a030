"""One life of the factory's process, as coordinators know it: its identity on the wire, and what its hello opened."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from factory.link.port import Link, Unanswered
from runtime.clock import Clock
from runtime.entropy import Entropy
from schemas.messages import Grant

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.2
RETRY_MAX_S = 5.0


class Answered(NamedTuple):
    """`asked_at_s`: when the attempt that was answered began; an answer is trusted from then on, not from the first."""

    doc: dict[str, Any]
    asked_at_s: float


@dataclass(frozen=True)
class OpenSession:
    """What the coordinator answered to the hello, from which everything that works in this session is made.

    `capabilities`: of those said, the ones that the enrolment entitles to.
    """

    number: int
    products: tuple[str, ...]
    capabilities: tuple[str, ...]
    heartbeat_s: float
    lease_ttl_s: float
    trust_margin_s: float


class Session:
    """What each message of a session begins with. `ask_no` rises with every ask, so that the coordinator can order
    them.
    """

    def __init__(
        self, factory_id: str, link: Link, clock: Clock, entropy: Entropy, session_id: str | None = None
    ) -> None:
        self.factory_id = factory_id
        self.session_id = session_id or entropy.token()
        self._ask_no = 0
        self._link = link
        self._clock = clock
        self._entropy = entropy
        self._offset = timedelta()

    def boot_s(self) -> float:
        return self._clock.boot_s()

    def now(self) -> datetime:
        return self._clock.now()

    def coordinator_now(self) -> datetime:
        """The coordinator's wall clock, as its last answer showed it."""
        return self._clock.now() + self._offset

    def note_now(self, coordinator_now: datetime) -> None:
        self._offset = coordinator_now - self._clock.now()

    def request_id(self) -> str:
        return self._entropy.token()

    def ask(self) -> dict[str, Any]:
        """The fields that every message of this session begins with."""
        self._ask_no += 1
        return {"factory_id": self.factory_id, "session_id": self.session_id, "ask_no": self._ask_no}

    def of_term(self, grant: Grant) -> dict[str, Any]:
        """The fields that every message about a term begins with."""
        return {
            **self.ask(),
            "product_id": grant.product_id,
            "job_id": grant.job_id,
            "lease_epoch": grant.lease_epoch,
        }

    async def call(self, op: str, message: dict[str, Any]) -> dict[str, Any]:
        """Asks once. Raises Unanswered or FleetError."""
        return await self._link.call(op, message)

    async def insist(self, op: str, message: dict[str, Any]) -> Answered:
        """Asks until it is answered. Raises FleetError for a refusal."""
        wait_s = RETRY_FIRST_S
        while True:
            asked_at_s = self._clock.boot_s()
            try:
                return Answered(await self._link.call(op, message), asked_at_s)
            except Unanswered as error:
                log.warning("%s is not answered, trying again: %s", op, error)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_MAX_S)
