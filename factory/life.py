"""One life of a factory's process: it opens a session, beats, works, and ends drained or fenced.

Services, simulations and tests all put it together here, from whatever adapters. What works in a session is made from
the opened one, so that it is complete when it is made.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from bus.port import Bus, Message
from bus.subjects import ctl_subject
from factory.asks import Asks
from factory.claiming import Claiming
from factory.engines.port import EngineAdapter
from factory.fitness import Fitness
from factory.heartbeat import Heartbeat
from factory.held_terms import HeldTerms
from factory.identity import Identity
from factory.link.failover import FailoverLink
from factory.log_delivery import LogDelivery
from factory.opening import MachineWords, open_session
from factory.outbox import Outbox
from factory.ports import Launch, Trees
from factory.probe import Probe
from factory.reporting import Reporter
from factory.session import OpenSession, Session
from factory.surroundings.surroundings import Surroundings
from factory.term import Term, Tools
from factory.term_state import TermState
from runtime.clock import Clock
from runtime.loop import cancel
from schemas.base import validation_sentence
from schemas.factory import Transport
from schemas.messages import Control, StopOrder
from schemas.work import Engine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What a factory is made of. `terms`: the folder for what its engines need besides their trees."""

    machine: MachineWords
    session: Session
    link: FailoverLink
    bus: Bus
    clock: Clock
    identity: Identity
    outbox: Outbox
    logs: LogDelivery
    trees: Trees
    launch: Launch
    adapters: Mapping[Engine, EngineAdapter]
    surroundings: Surroundings
    takeover: bool = False
    checkpoint_every_s: float = 60.0
    idle_limit_s: float | None = None
    drain_grace_s: float = 30.0
    long_poll_s: float = 20.0


class Life:
    """`work` is None until the session is open."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._reporter = Reporter(parts.session, parts.outbox)
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.work: Work | None = None

    def is_live(self, job_id: str, lease_epoch: int) -> bool:
        """Whether the term runs, or its end is not acknowledged."""
        if self.work is not None:
            return self.work.held.is_live(job_id, lease_epoch)
        return self._reporter.is_unsaid(job_id, lease_epoch)

    def drain(self) -> None:
        """No more asks; what runs may finish within the grace, or is saved and released."""
        if self.work is not None:
            self.work.drain()
        elif not self._over.done():  # nothing is held and nothing was said: there is nothing to end
            self._over.set_result(None)

    async def run(self) -> None:
        """Until drained. Raises FencedSession, or FleetError where the coordinator refuses this factory."""
        opened = await self._open()
        if opened is not None:
            self._parts.logs.resume()
            self.work = Work(self._parts, opened, self._reporter, self._over)
            await self.work.run()

    async def _open(self) -> OpenSession | None:
        """None: it was drained while it waited."""
        parts = self._parts
        opening = asyncio.create_task(
            open_session(
                parts.machine,
                parts.session,
                self._reporter,
                parts.identity,
                lambda: parts.link.transport,
                takeover=parts.takeover,
            )
        )
        try:
            either: set[asyncio.Future[Any]] = {opening, self._over}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return opening.result() if opening.done() else None
        finally:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)


class Work:
    """What a factory does in an open session. `over` is set when it is drained, or with what ended it."""

    def __init__(self, parts: Parts, opened: OpenSession, reporter: Reporter, over: asyncio.Future[None]) -> None:
        self._parts = parts
        self.opened = opened
        self._over = over
        self._draining = False
        self._emptying: asyncio.Task[None] | None = None
        self.asks = Asks(parts.session)

        def make_term(state: TermState) -> Term:
            return Term(state, _tools(parts, reporter, state))

        self.fitness = Fitness(Probe(parts.trees, parts.launch, parts.surroundings, parts.clock).of)
        self.held = HeldTerms(
            parts.session,
            opened,
            reporter,
            self.asks,
            make_term,
            idle_limit_s=parts.idle_limit_s,
            heard_end=self.fitness.heard_end,
        )
        self.claiming = Claiming(
            parts.session,
            opened,
            parts.link,
            self.asks,
            self.held,
            seats=parts.machine.seats,
            engines=frozenset(parts.machine.engines),
            long_poll_s=parts.long_poll_s,
        )
        self.heartbeat = Heartbeat(
            parts.machine,
            parts.session,
            opened,
            parts.link,
            self.asks,
            self.held,
            is_draining=lambda: self._draining,
            unfit=lambda: self.fitness.unfit,
        )
        self.held.freed.listen(self.claiming.look_again)
        self.fitness.changed.listen(self._fitness_changed)

    async def run(self) -> None:
        """The heartbeat is first to start and last to stop. Raises FencedSession."""
        parts = self._parts
        heartbeat = self._vital(self.heartbeat.run(), "heartbeat")
        await parts.bus.subscribe(ctl_subject(parts.session.factory_id), self._heard_control)
        await self.claiming.subscribe(parts.bus)
        parts.link.on_change(self._transport_changed)
        claiming = self._vital(self.claiming.run(), "claiming")
        fitness = self._vital(self.fitness.run(), "fitness")
        try:
            await self._over
        finally:
            await cancel(claiming, fitness, *([self._emptying] if self._emptying else []))
            await self.claiming.stop()
            await self.held.fence_all()
            await parts.logs.stop()
            await cancel(heartbeat)

    def drain(self) -> None:
        if self._draining:
            return
        self._draining = True
        log.info("draining: %d running", len(self.held))
        self.asks.close()
        by_s = self._parts.clock.boot_s() + self._parts.drain_grace_s
        self.held.drain(by_s)
        self._emptying = self._vital(self._end_when_empty(by_s), "emptying")

    async def _end_when_empty(self, by_s: float) -> None:
        await self.heartbeat.beat()  # first: who has heard that it drains grants it nothing new, however it asks
        self.claiming.hang_up()
        await self.asks.settled()
        await self.held.settled()
        await self._parts.logs.settle(max(0.0, by_s - self._parts.clock.boot_s()))
        await self.heartbeat.beat()
        if not self._over.done():
            self._over.set_result(None)

    def _vital(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """A task without which there is no factory: if it breaks, the factory ends and says why."""

        def ended(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None and not self._over.done():
                self._over.set_exception(error)

        task = asyncio.create_task(work, name=name)
        task.add_done_callback(ended)
        return task

    def _heard_control(self, message: Message) -> None:
        try:
            control = Control.model_validate_json(message.data)
        except ValidationError as error:
            log.warning("an order made no sense: %s", validation_sentence(error))
            return
        if control.order == "drain":
            self.drain()
        elif control.job_id is not None and control.lease_epoch is not None:
            stop = StopOrder(kind=control.order, by_s=control.by_s or 0.0, reason=control.reason)
            self.held.heard_stop(control.job_id, control.lease_epoch, stop)

    def _fitness_changed(self) -> None:
        """Heard of at once, so that nothing is offered to it, or all that waits for it is."""
        self.asks.is_paused = self.fitness.unfit is not None
        self.claiming.look_again()
        self.heartbeat.beat_now()

    def _transport_changed(self, _transport: Transport) -> None:
        """Work is asked for over the new transport at once, and the coordinators learn of it."""
        self.claiming.look_again()
        self.heartbeat.beat_now()


def _tools(parts: Parts, reporter: Reporter, state: TermState) -> Tools:
    grant = state.grant
    return Tools(
        clock=parts.clock,
        trees=parts.trees,
        launch=parts.launch,
        adapter=parts.adapters[grant.engine],
        folders=parts.surroundings.folders.of(grant.job_id, grant.lease_epoch),
        surroundings=parts.surroundings,
        factory_id=parts.session.factory_id,
        session_id=parts.session.session_id,
        checkpoint_every_s=parts.checkpoint_every_s,
        logs=parts.logs,
        save_checkpoint=reporter.say_checkpoint,
    )
