"""A factory that knows only REST, as a script of a few lines would be."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from chaos.recording import Message, Note
from factory.link.port import Link, Unanswered
from runtime.clock import Clock
from schemas.errors import FleetError

AGAIN_S = 1.0


@dataclass(frozen=True)
class Pace:
    """`works_s`: how long its engines may run, one drawn for each term."""

    renew_s: float
    margin_s: float
    works_s: tuple[float, ...]
    wait_s: float = 5.0


class RestClient:
    """A factory as a shell script would be: claims, starts, renews, reports, each asked again until answered."""

    def __init__(
        self,
        factory_id: str,
        capabilities: Sequence[str],
        *,
        link: Link,
        clock: Clock,
        note: Note,
        chance: random.Random,
        life: int,
        pace: Pace,
    ) -> None:
        self.id = factory_id
        self._capabilities = list(capabilities)
        self._link = link
        self._clock = clock
        self._note = note
        self._chance = chance
        self._life = life
        self._pace = pace

    async def live(self) -> None:
        """Without an end of its own."""
        self._note(
            "up", f"factory:{self.id}", life=self._life, seats=1, engines=["shell"],
            capabilities=self._capabilities, sessionId=None,
        )  # fmt: skip
        number = 0
        while True:
            number += 1
            ask = {
                "factoryId": self.id,
                "requestId": f"{self.id}-{self._life}-{number}",
                "waitS": self._pace.wait_s,
                "engines": ["shell"],
                "capabilities": self._capabilities,
            }
            with contextlib.suppress(FleetError):
                answer, asked_s = await self._insists("claim", ask)
                for duplicate in answer["grants"][1:]:
                    await self._insists("release", self._term(duplicate))
                for grant in answer["grants"][:1]:
                    await self._holds(grant, asked_s)
            await asyncio.sleep(self._chance.uniform(0.05, 0.5))

    def _term(self, grant: Message) -> Message:
        return {name: grant[name] for name in ("productId", "jobId", "leaseEpoch")} | {"factoryId": self.id}

    async def _insists(self, op: str, message: Message) -> tuple[Message, float]:
        """The answer, and when the attempt that was answered began."""
        while True:
            asked_s = self._clock.boot_s()
            try:
                return await self._link.call(op, message), asked_s
            except Unanswered:
                await asyncio.sleep(AGAIN_S)

    async def _holds(self, grant: Message, asked_s: float) -> None:
        """A 409 on the way means: stop now. Trust is kept as any holder must: from the ask, less the margin."""
        term = self._term(grant)
        times = grant["term"]
        until_s = asked_s + min(times["leaseLeftS"], times["startWithinS"]) - self._pace.margin_s
        try:
            async with asyncio.timeout(until_s - self._clock.boot_s()):
                answer, asked_s = await self._insists("start", dict(term))
        except (FleetError, TimeoutError):
            return
        stopped = await self._works(grant, term, asked_s + answer["term"]["leaseLeftS"] - self._pace.margin_s)
        if stopped is None:
            return
        with contextlib.suppress(FleetError):
            if stopped:
                await self._insists("release", dict(term))
            else:
                verify = [{"command": one, "rc": 0} for one in grant.get("verify", ())]
                await self._insists("report", term | {"result": {"outcome": "ok", "verify": verify}})

    async def _works(self, grant: Message, term: Message, until_s: float) -> bool | None:
        """Whether it was told to stop; None where the term is not its own any more."""
        over_s = self._clock.boot_s() + self._chance.choice(self._pace.works_s)
        if self._clock.boot_s() >= until_s:
            return None
        self._engine("begins", grant)
        try:
            while (now_s := self._clock.boot_s()) < over_s:
                await asyncio.sleep(max(0.0, min(over_s, until_s, now_s + self._pace.renew_s) - now_s))
                async with asyncio.timeout(until_s - self._clock.boot_s()):
                    answer, asked_s = await self._insists("renew", dict(term))
                until_s = max(until_s, asked_s + answer["term"]["leaseLeftS"] - self._pace.margin_s)
                if answer.get("stop"):
                    return True
            return False
        except (FleetError, TimeoutError):
            return None
        finally:
            self._engine("ends", grant)

    def _engine(self, does: str, grant: Message) -> None:
        self._note(
            "engine", f"factory:{self.id}", does=does, life=self._life, sessionId="rest",
            productId=grant["productId"], jobId=grant["jobId"], leaseEpoch=grant["leaseEpoch"],
        )  # fmt: skip
