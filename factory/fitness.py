"""Whether this machine can do the work at all. One that fails job after job, of no fault of theirs, takes no more of
them until it has shown that it can.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from factory.term import RELEASED, TermEnd
from runtime.signals import Signal
from schemas.messages import UNFIT_LENGTH_MAX, Grant
from schemas.outcome import Outcome

log = logging.getLogger(__name__)

IN_A_ROW = 3  # different jobs: one alone may ask for what nobody here has
PROBE_FIRST_S = 15.0
PROBE_MAX_S = 300.0
PROBE_WITHIN_S = 120.0


class Fitness:
    """`probe` raises what keeps this machine from a job. `unfit`: why no work is taken, in a sentence; None while it
    is. `changed` is announced when that turns.
    """

    def __init__(self, probe: Callable[[Grant], Awaitable[None]]) -> None:
        self.changed = Signal()
        self.unfit: str | None = None
        self._probe = probe
        self._failed: dict[str, Grant] = {}
        self._turned = asyncio.Event()

    def heard_end(self, grant: Grant, end: TermEnd) -> None:
        """Of every term. An engine that came to its end shows that the machine works; one called off shows nothing."""
        if end.result.outcome is not Outcome.MACHINE_FAILED:
            if end.result.outcome not in (*RELEASED, Outcome.UNRUNNABLE):
                self._failed.clear()
                if self.unfit is not None:  # on another seat: no probe shows more
                    self._turn(None)
            return
        if not end.shows_machine:  # a repository that is not there, say, is nowhere
            return
        self._failed[grant.job_id] = grant
        if len(self._failed) >= IN_A_ROW and self.unfit is None:
            first_line = (end.result.summary or "").partition("\n")[0]
            self._turn(f"{len(self._failed)} jobs in a row could not be run here: {first_line}")

    async def run(self) -> None:
        """For ever: probes while it is unfit, at longer and longer intervals."""
        while True:
            await self._turned.wait()
            wait_s = PROBE_FIRST_S
            while self.unfit is not None:
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, PROBE_MAX_S)
                await self._try()

    async def _try(self) -> None:
        """The last job that failed, without its engine: that what failed then works now is what is to be shown."""
        try:
            async with asyncio.timeout(PROBE_WITHIN_S):
                await self._probe(next(reversed(self._failed.values())))
        except Exception as error:
            log.warning("this machine takes no work yet: %s", error)
            return
        log.info("this machine takes work again")
        self._failed.clear()
        self._turn(None)

    def _turn(self, unfit: str | None) -> None:
        self.unfit = unfit[:UNFIT_LENGTH_MAX] if unfit is not None else None
        if unfit is not None:
            log.warning("this machine takes no work until a probe works: %s", unfit)
            self._turned.set()
        else:
            self._turned.clear()
        self.changed.announce()
