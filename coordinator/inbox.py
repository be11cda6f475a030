"""Requests over the bus: subject -> message -> handler -> reply. The factory's id is the subject's, which the broker
checks; a message that names another is refused, and only the factory's own inbox is ever answered."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from pydantic import ValidationError

from bus.port import Message, Subscription
from bus.subjects import (
    COORDINATORS,
    event_wildcard,
    is_own_inbox,
    log_wildcard,
    parse_log,
    parse_rpc,
    roster_wildcard,
    rpc_wildcard,
)
from coordinator.context import Context
from coordinator.handlers import claims, heartbeats, sessions, terms
from coordinator.store.port import StoreError
from schemas import messages
from schemas.base import validation_sentence
from schemas.errors import ErrorCode, FleetError
from schemas.factory import FactoryDoc
from schemas.ids import JobKey
from schemas.messages import FromFactory, LogChunk, LogHeard, RosterNote

log = logging.getLogger(__name__)

Handler = Callable[[Context, Any], Awaitable[messages.WireMessage]]

OPS: dict[str, tuple[type[FromFactory], Handler]] = {
    "hello": (messages.HelloRequest, sessions.hello),
    "heartbeat": (messages.HeartbeatRequest, heartbeats.heartbeat),
    "claim": (messages.ClaimRequest, claims.claim),
    "start": (messages.StartRequest, terms.start),
    "checkpoint": (messages.CheckpointRequest, terms.checkpoint),
    "report": (messages.ReportRequest, terms.report),
    "renew": (messages.RenewRequest, terms.renew),
    "release": (messages.ReleaseRequest, terms.release),
}


class Inbox:
    def __init__(self, ctx: Context, on_foreign_event: Callable[[JobKey], None]) -> None:
        self._ctx = ctx
        self._on_foreign_event = on_foreign_event
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        bus = self._ctx.bus
        self._subscriptions = [
            await bus.subscribe(log_wildcard(), self._heard_log),
            await bus.serve(
                rpc_wildcard(),
                self._respond,
                COORDINATORS,
                self._allows_reply,
                waits_s=self._ctx.timers.request_waits_s,
            ),
            await bus.subscribe(roster_wildcard(), self._heard_roster),
            await bus.subscribe(event_wildcard(), self._heard_event),
        ]

    async def stop(self) -> None:
        for subscription in self._subscriptions:
            await subscription.stop()

    def _allows_reply(self, message: Message) -> bool:
        address = parse_rpc(message.subject)
        return address is not None and message.reply is not None and is_own_inbox(address.factory_id, message.reply)

    async def _respond(self, message: Message) -> bytes | None:
        address = parse_rpc(message.subject)
        assert address is not None
        try:
            answer = await self._handled(address.factory_id, address.op, message.data)
            return orjson.dumps({"ok": True, **answer})
        except FleetError as error:
            return orjson.dumps({"ok": False, "error": error.to_doc()})
        except StoreError as error:
            return _error(ErrorCode.UNAVAILABLE, f"the store did not answer: {error}")
        except Exception:
            log.exception("%s of %s failed", address.op, address.factory_id)
            return _error(ErrorCode.INTERNAL, "the coordinator made a mistake; its log tells more")

    async def _handled(self, factory_id: str, op: str, data: bytes) -> dict[str, Any]:
        model, handler = OPS[op]
        try:
            request = model.model_validate_json(data)
        except ValidationError as error:
            raise FleetError(ErrorCode.INVALID_REQUEST, validation_sentence(error)) from None
        if request.factory_id != factory_id:
            raise FleetError(ErrorCode.FORBIDDEN, f"a message of {factory_id} speaks for {request.factory_id}")
        if isinstance(request, messages.ClaimRequest) and request.wait_s:
            request = request.model_copy(update={"wait_s": 0.0})  # on the bus, offers do the waiting
        return (await handler(self._ctx, request)).to_doc()

    def _heard_roster(self, message: Message) -> None:
        try:
            note = RosterNote.model_validate_json(message.data)
            factory = FactoryDoc.model_validate(note.factory)
            self._ctx.roster.note(factory, heard=True)
            self._ctx.roster.note_holding(factory.id, note.holding)
        except ValidationError as error:
            log.warning("a roster note was left out: %s", validation_sentence(error))

    def _heard_log(self, message: Message) -> None:
        """Output is kept, and acknowledged, only from the holder of the term, as far as the index knows. A factory that
        is not answered asks over REST, where the store is looked at.
        """
        product_id, factory_id, job_id = parse_log(message.subject)
        try:
            chunk = LogChunk.model_validate_json(message.data)
        except ValidationError as error:
            log.warning("a log chunk was left out: %s", validation_sentence(error))
            return
        if (chunk.product_id, chunk.job_id) == (product_id, job_id) and self._ctx.ready.is_held_by(
            JobKey(product_id, job_id), factory_id, chunk.session_id, chunk.lease_epoch
        ):
            try:
                heard = self._ctx.logs.append(chunk)
            except FleetError:
                return
            if message.reply is not None and is_own_inbox(factory_id, message.reply):
                self._ctx.publisher.send_answer(message.reply, LogHeard(heard=heard))

    def _heard_event(self, message: Message) -> None:
        product_id, job_id = message.subject.split(".")[3:5]
        self._on_foreign_event(JobKey(product_id, job_id))


def _error(code: ErrorCode, sentence: str) -> bytes:
    return orjson.dumps({"ok": False, "error": FleetError(code, sentence).to_doc()})
