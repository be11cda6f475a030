"""Opening a session: old reports are said first, then hello; what it answers is all that the session is made of."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from factory.identity import Identity
from factory.ports import Vitals
from factory.reporting import Reporter
from factory.session import OpenSession, Session
from schemas.errors import ErrorCode, FleetError
from schemas.factory import Transport
from schemas.messages import HelloAnswer, HelloRequest
from schemas.work import Engine

log = logging.getLogger(__name__)

VERSION = "0.1.0"
CAPABILITIES_MAX = 64


class FencedSession(Exception):
    """A newer session of this factory exists: this process must end and never say hello again."""


@dataclass(frozen=True)
class MachineWords:
    """What a factory says of its machine. `capabilities` are configured, `detected` found."""

    capabilities: tuple[str, ...]
    engines: tuple[Engine, ...]
    workspaces: tuple[str, ...]
    seats: int
    vitals: Callable[[], Vitals]
    os_name: str
    detected: tuple[str, ...] = ()

    @property
    def all_capabilities(self) -> tuple[str, ...]:
        """Configured ones first, as a hello has room for so many only."""
        return tuple(dict.fromkeys((*self.capabilities, *self.detected)))[:CAPABILITIES_MAX]


async def open_session(
    machine: MachineWords,
    session: Session,
    reporter: Reporter,
    identity: Identity,
    transport: Callable[[], Transport],
    *,
    takeover: bool,
) -> OpenSession:
    """Raises FencedSession, or FleetError where the coordinator refuses this factory."""
    await reporter.say_what_is_left()

    async def hello(number: int | None) -> HelloAnswer:
        request = HelloRequest(
            **session.ask(),
            session_no=number,
            takeover=takeover,
            capabilities=machine.all_capabilities,
            engines=machine.engines,
            workspaces=machine.workspaces,
            seat_limit=machine.seats,
            transport=transport(),
            version=VERSION,
            os=machine.os_name,
            free_disk_bytes=machine.vitals().free_disk_bytes,
        )
        try:
            return HelloAnswer.model_validate((await session.insist("hello", request.to_doc())).doc)
        except FleetError as error:
            if error.code is ErrorCode.FENCED:
                raise FencedSession(error.message) from error
            raise

    last = identity.last_session_no()
    number = 1 if last is None else last + 1
    if last is None or takeover:
        # The counter is lost, or behind that of another machine: this only asks what to say.
        number = max(number, (await hello(None)).session_no)
    identity.remember(number)  # on the disk before it is said
    answer = await hello(number)
    session.note_now(answer.now)
    log.info("session %d of %s, over %s", answer.session_no, session.factory_id, transport())
    return OpenSession(
        number=answer.session_no,
        products=answer.products,
        capabilities=_entitled(machine, answer),
        heartbeat_s=answer.heartbeat_every_s,
        lease_ttl_s=answer.lease_ttl_s,
        trust_margin_s=answer.trust_margin_s,
    )


def _entitled(machine: MachineWords, answer: HelloAnswer) -> tuple[str, ...]:
    """Only what the coordinator grants is offered, and asked for on the bus; an older one does not say: then only what
    was configured.
    """
    configured = set(machine.capabilities)
    said = set(machine.all_capabilities)
    entitled = configured if answer.capabilities is None else set(answer.capabilities) & said
    for warning in answer.warnings:
        log.log(logging.INFO if configured <= entitled else logging.WARNING, "%s", warning)
    found = set(machine.detected)
    log.info(
        "offers %s; found on this machine: %s; found, but not offered as it is not enrolled for them: %s",
        *(", ".join(sorted(names)) or "nothing" for names in (entitled, found, found - entitled)),
    )
    return tuple(sorted(entitled))
