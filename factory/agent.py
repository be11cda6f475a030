"""One factory: opens its session, beats, asks for work, and ends drained or fenced."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from bus.port import Bus, Message
from bus.subjects import ctl_subject
from factory.claiming import Claiming
from factory.held_terms import HeldTerms
from factory.link.failover import FailoverLink
from factory.link.port import Unanswered
from factory.ports import Vitals
from factory.session import Session
from schemas.base import validation_sentence
from schemas.errors import ErrorCode, FleetError
from schemas.factory import Transport
from schemas.messages import Control, HeartbeatAnswer, HeartbeatRequest, HelloAnswer, HelloRequest, StopOrder
from schemas.work import Engine

log = logging.getLogger(__name__)

VERSION = "0.1.0"
CAPABILITIES_MAX = 64
BEAT_UNSURE_S = 0.1  # doubled each time


class FencedSession(Exception):
    """A newer session of this factory exists: this process must end and never say hello again."""


@dataclass(frozen=True)
class AgentSettings:
    """`capabilities` are configured, `detected` found on the machine."""

    capabilities: tuple[str, ...]
    engines: tuple[Engine, ...]
    workspaces: tuple[str, ...]
    seats: int
    vitals: Callable[[], Vitals]
    os_name: str
    takeover: bool
    drain_grace_s: float
    detected: tuple[str, ...] = ()


class Agent:
    def __init__(
        self,
        settings: AgentSettings,
        session: Session,
        link: FailoverLink,
        bus: Bus,
        held: HeldTerms,
        claiming: Claiming,
    ) -> None:
        self._settings = settings
        self._session = session
        self._link = link
        self._bus = bus
        self._held = held
        self._claiming = claiming
        self._heartbeat_s = 5.0
        self._opened = False
        self._draining = False
        self._beat_now = asyncio.Event()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._emptying: asyncio.Task[None] | None = None

    async def open_session(
        self, last_session_no: int | None, remember: Callable[[int], None]
    ) -> tuple[str, ...] | None:
        """Gives the products that it serves; None if it was drained while it waited. Raises FencedSession."""
        opening = asyncio.create_task(self._open_session(last_session_no, remember))
        try:
            either: set[asyncio.Future[Any]] = {opening, self._over}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return opening.result() if opening.done() else None
        finally:
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)

    async def _open_session(self, last_session_no: int | None, remember: Callable[[int], None]) -> tuple[str, ...]:
        """Old reports first, then hello."""
        await self._held.settle_old_reports()
        number = 1 if last_session_no is None else last_session_no + 1
        if last_session_no is None or self._settings.takeover:
            # The counter is lost, or behind that of another machine: this only asks what to say.
            number = max(number, (await self._hello(None)).session_no)
        remember(number)  # on the disk before it is said
        answer = await self._hello(number)
        self._note_entitled(answer)
        self._session.session_no = answer.session_no
        self._session.note_now(answer.now)
        self._held.margin_s, self._held.lease_ttl_s = answer.trust_margin_s, answer.lease_ttl_s
        self._heartbeat_s = answer.heartbeat_every_s
        self._opened = True
        log.info("session %d of %s, over %s", answer.session_no, self._session.factory_id, self._link.transport)
        return answer.products

    def _note_entitled(self, answer: HelloAnswer) -> None:
        """Only what the coordinator grants is offered, and asked for on the bus; an older one does not say: then only
        what was configured.
        """
        configured = set(self._settings.capabilities)
        entitled = configured if answer.capabilities is None else set(answer.capabilities) & set(self._said)
        self._claiming.capabilities = tuple(sorted(entitled))
        for warning in answer.warnings:
            log.log(logging.INFO if configured <= entitled else logging.WARNING, "%s", warning)
        found = set(self._settings.detected)
        log.info(
            "offers %s; found on this machine: %s; found, but not offered as it is not enrolled for them: %s",
            *(", ".join(sorted(names)) or "nothing" for names in (entitled, found, found - entitled)),
        )

    @property
    def _said(self) -> tuple[str, ...]:
        """Configured ones first, as a hello has room for so many only."""
        return tuple(dict.fromkeys((*self._settings.capabilities, *self._settings.detected)))[:CAPABILITIES_MAX]

    async def _hello(self, session_no: int | None) -> HelloAnswer:
        request = HelloRequest(
            **self._session.ask(),
            session_no=session_no,
            takeover=self._settings.takeover,
            capabilities=self._said,
            engines=self._settings.engines,
            workspaces=self._settings.workspaces,
            seat_limit=self._settings.seats,
            transport=self._link.transport,
            version=VERSION,
            os=self._settings.os_name,
            free_disk_bytes=self._settings.vitals().free_disk_bytes,
        )
        try:
            return HelloAnswer.model_validate((await self._session.insist("hello", request.to_doc())).doc)
        except FleetError as error:
            if error.code is ErrorCode.FENCED:
                raise FencedSession(error.message) from error
            raise

    async def run(self, products: tuple[str, ...]) -> None:
        """Until drained. The heartbeat is first to start and last to stop. Raises FencedSession."""
        heartbeat = self._vital(self._beat_for_ever(), "heartbeat")
        await self._bus.subscribe(ctl_subject(self._session.factory_id), self._heard_control)
        await self._claiming.listen(self._bus, products)
        self._link.on_change(self._transport_changed)
        asking = self._vital(self._claiming.run(), "asking")
        try:
            await self._over
        finally:
            await _cancelled(asking, *([self._emptying] if self._emptying else []))
            await self._claiming.stop()
            await self._held.fence_all()
            await _cancelled(heartbeat)

    def _vital(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """A task without which there is no factory: if it breaks, the factory ends and says why."""

        def ended(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None and not self._over.done():
                self._over.set_exception(error)

        task = asyncio.create_task(work, name=name)
        task.add_done_callback(ended)
        return task

    def drain(self) -> None:
        """No more asks; what runs may finish within the grace, or is saved and released."""
        if self._draining:
            return
        self._draining = True
        if not self._opened:  # nothing is held and nothing was said: there is nothing to end
            self._over.set_result(None)
        else:
            log.info("draining: %d running", len(self._held))
            self._claiming.close()
            self._held.drain(self._session.boot_s() + self._settings.drain_grace_s)
            self._emptying = self._vital(self._end_when_empty(), "emptying")

    async def _end_when_empty(self) -> None:
        await self._beat()  # first: who has heard that it drains grants it nothing new, however it asks
        self._claiming.hang_up()
        await self._claiming.settled()
        await self._held.settled()
        await self._beat()
        if not self._over.done():
            self._over.set_result(None)

    async def _beat_for_ever(self) -> None:
        """Sooner while it is not sure that the coordinators hear it on the bus."""
        unsure_s = BEAT_UNSURE_S
        while True:
            self._beat_now.clear()
            await self._beat()
            if self._link.settled:
                wait_s, unsure_s = self._heartbeat_s, BEAT_UNSURE_S
            else:
                wait_s, unsure_s = unsure_s, min(unsure_s * 2, self._heartbeat_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._beat_now.wait()

    async def _beat(self) -> None:
        asked_at_s, vitals = self._session.boot_s(), self._settings.vitals()
        request = HeartbeatRequest(
            **self._session.ask(),
            session_no=self._session.session_no,
            holding=self._held.named(),
            pending=(*self._claiming.pending, *self._held.pending),
            seat_limit=self._settings.seats,
            seats_used=len(self._held),
            load=vitals.load,
            transport=self._link.transport,
            draining=self._draining,
            free_disk_bytes=vitals.free_disk_bytes,
        )
        try:
            answer = HeartbeatAnswer.model_validate(await self._session.call("heartbeat", request.to_doc()))
        except Unanswered as error:
            log.warning("the heartbeat was not answered: %s", error)
            return
        except FleetError as error:
            log.warning("the heartbeat was refused: %s", error.message)
            if error.code in (ErrorCode.FENCED, ErrorCode.UNAUTHORIZED) and not self._over.done():
                self._over.set_exception(FencedSession(error.message))
            return
        self._session.note_now(answer.now)
        for told in answer.terms:
            self._held.heard_term(told, asked_at_s)

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
            self._held.heard_stop(control.job_id, control.lease_epoch, stop)

    def _transport_changed(self, _transport: Transport) -> None:
        """Work is asked for over the new transport at once, and the coordinators learn of it."""
        self._claiming.look_again()
        self._beat_now.set()


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
