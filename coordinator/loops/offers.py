"""Tells factories on the bus of jobs that wait: the best, the best few, soon everybody capable, then ever more rarely.

An offer is advice: it may be lost, repeated or out of date, and the claim decides. None is published while no
capable factory has a free seat, which is the backpressure; a seat that becomes free brings the job up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson

from bus.port import BusError
from bus.subjects import ANY, offer_subject
from coordinator.context import Context
from coordinator.dispatch.waiters import kind_of
from coordinator.scheduler.feasible import obstacles
from coordinator.scheduler.plan import ranked_factories
from coordinator.scheduler.snapshot import FactoryView, Snapshot
from runtime.loop import cancel
from schemas.events import TERM_ENDS
from schemas.factory import Transport
from schemas.ids import JobKey
from schemas.job import Job
from schemas.messages import Offer
from schemas.projections import EventDoc

log = logging.getLogger(__name__)

INVITED_MAX = (1, 8)  # by the first offer, and by the second: of those invited, all but one claim in vain
OFFERS_PER_RUN_MAX = 500


@dataclass
class _Waiting:
    """One queued job's offers so far; `due_s` on the clock since boot, infinite while nobody capable is free.
    `left`: for a round, to those who hold a call open for work like it.
    """

    lease_epoch: int
    due_s: float
    offer_no: int = 0
    left: bool = False


class Offers:
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._bus = ctx.bus
        self._waiting: dict[JobKey, _Waiting] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._seen: Snapshot | None = None
        self._fits: dict[Hashable, bool] = {}
        self.published = 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="offers")

    async def stop(self) -> None:
        if self._task is not None:
            await cancel(self._task)

    def queued(self, job: Job, *, ours: bool) -> None:
        """A job became claimable. The coordinator that made it so offers it at once, the others a round later; until
        then they set it aside, if somebody on the bus can take it.
        """
        known, now_s = self._waiting.get(job.key), self._ctx.clock.boot_s()
        if ours:
            self._waiting[job.key] = _Waiting(job.lease_epoch, now_s)
            self._ctx.waiters.take_back(job.key)
            self._wake.set()
        elif known is None or known.lease_epoch != job.lease_epoch:
            due_s = now_s + self._ctx.timers.offer_round_s
            self._waiting[job.key] = _Waiting(job.lease_epoch, due_s)
            if self._bus.connected and self._somebody_fits(job):
                self._ctx.waiters.set_aside(job.key, due_s)
            self._wake.set()

    def _somebody_fits(self, job: Job) -> bool:
        """On the bus. Looked up once for each kind of job and step of the loop: a refresh may find thousands."""
        if self._seen is None:
            self._seen = self._on_bus(self._ctx.snapshot())
            asyncio.get_running_loop().call_soon(self._forget_seen)
        kind = kind_of(job), job.lock
        if kind not in self._fits:
            seen = self._seen
            self._fits[kind] = any(not obstacles(job, view, seen) for view in seen.factories)
        return self._fits[kind]

    def _forget_seen(self) -> None:
        self._seen = None
        self._fits.clear()

    def after_commit(self, job: Job, events: tuple[EventDoc, ...]) -> None:
        """A term ended: a seat is free, and perhaps a lock."""
        if not job.held and any(event.type in TERM_ENDS for event in events):
            self.seat_freed()

    def seat_freed(self) -> None:
        """Jobs that waited for a free seat are looked at again."""
        now_s = self._ctx.clock.boot_s()
        for waiting in self._waiting.values():
            if waiting.due_s == math.inf:
                waiting.due_s = now_s
        self._wake.set()

    async def run_once(self, now: datetime) -> Counter[str]:
        """Publishes what is due, bounded by OFFERS_PER_RUN_MAX; gives how many, by round."""
        done: Counter[str] = Counter()
        queued = {job.key: job for job in self._ctx.ready.queued()}
        for key in [key for key in self._waiting if key not in queued]:
            del self._waiting[key]
        now_s = self._ctx.clock.boot_s()
        due = [key for key, waiting in self._waiting.items() if waiting.due_s <= now_s]
        if not due or not self._bus.connected:
            return done
        self._ctx.waiters.match_if_due()  # a job that a waiting call is woken for needs no offer yet
        snapshot = self._ctx.snapshot()
        on_bus = self._on_bus(snapshot)
        for key in due[:OFFERS_PER_RUN_MAX]:
            done[await self._offer(queued[key], self._waiting[key], on_bus, now)] += 1
        return done

    async def _offer(self, job: Job, waiting: _Waiting, snapshot: Snapshot, now: datetime) -> str:
        timers = self._ctx.timers
        now_s = self._ctx.clock.boot_s()
        if waiting.offer_no == 0 and not waiting.left and self._ctx.precedence.is_promised(job.key, now_s):
            waiting.left = True
            waiting.due_s = now_s + timers.offer_round_s
            return "left"
        fitting = [score.factory_id for score in ranked_factories(job, snapshot)]
        if not fitting:
            waiting.due_s = math.inf
            return "parked"
        waiting.offer_no += 1
        narrow = waiting.offer_no <= len(INVITED_MAX)
        offer = Offer(
            product_id=job.product_id,
            job_id=job.id,
            lease_epoch=job.lease_epoch,
            offer_no=waiting.offer_no,
            round=1 if narrow else 2,
            invited=tuple(fitting[: INVITED_MAX[waiting.offer_no - 1]]) if narrow else (),
            capabilities=job.capabilities,
            engine=job.engine,
            priority=job.priority,
            cwd=job.cwd,
            expires_at=now + timedelta(seconds=timers.offer_ttl_s),
            now=now,
        )
        wait_s = timers.offer_round_s * 2 ** min(waiting.offer_no - 1, 16)
        waiting.due_s = self._ctx.clock.boot_s() + min(wait_s, timers.offer_repeat_max_s)
        subject = offer_subject(job.product_id, rarest(job, snapshot.factories))
        try:
            await self._bus.publish(subject, orjson.dumps(offer.to_doc()))
        except BusError:
            return "unheard"
        self.published += 1
        return "round1" if narrow else "round2"

    def _on_bus(self, snapshot: Snapshot) -> Snapshot:
        heard = {entry.doc.id for entry in self._ctx.roster.entries() if entry.doc.transport is Transport.BUS}
        factories = tuple(view for view in snapshot.factories if view.id in heard)
        return Snapshot(now=snapshot.now, factories=factories, locks=snapshot.locks, weights=snapshot.weights)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self.run_once(self._ctx.clock.now())
            except Exception:
                log.exception("offers failed; they go on at the next change")
            due_s = (waiting.due_s for waiting in self._waiting.values())
            next_s = min(due_s, default=math.inf) if self._bus.connected else math.inf  # its return wakes this loop
            left_s = max(0.01, min(next_s - self._ctx.clock.boot_s(), self._ctx.timers.sweeper_s))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._wake.wait()


def rarest(job: Job, factories: tuple[FactoryView, ...]) -> str:
    """The capability of the job that the fewest factories own, so that an offer wakes no others; `any` without one."""
    if not job.capabilities:
        return ANY
    return min(job.capabilities, key=lambda name: (sum(name in view.capabilities for view in factories), name))
