"""Factories whose connection to the broker ended and that are not heard of again, over either way.

The broker sees a killed factory's connection end at once. A living one is back within moments: over the bus, of which
the broker tells, or over REST, where its next heartbeat says so. If neither comes, its terms are ended before their
leases run out. Correctness stays with the epoch: a live holder that could reach nobody is fenced, and stops by itself.
"""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

import orjson

from bus.port import Message
from bus.subjects import came_subject, gone_subject, session_of_client
from coordinator.context import Context
from coordinator.domain.ops import Cause
from coordinator.leases import end_term
from coordinator.store.queries import jobs_held_by, read_factory
from runtime.loop import cancel, left_to_the_next_run
from schemas.factory import FactoryDoc, Transport

log = logging.getLogger(__name__)


class _Client(NamedTuple):
    """Whose connection it is. The key is what the broker checked; the session is the client's own word."""

    public: str
    session_id: str


class Vanished:
    """Ends terms only of the session whose connection it was: another machine of that factory may be at work."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self._bus = ctx.bus
        self._gone: dict[_Client, asyncio.Task[None]] = {}  # while the time to come back runs

    async def start(self) -> None:
        await self._bus.subscribe(gone_subject(), self._heard_gone)
        await self._bus.subscribe(came_subject(), self._heard_came)

    async def stop(self) -> None:
        for task in list(self._gone.values()):
            await cancel(task)

    def bus_changed(self, _up: bool) -> None:
        """What happened meanwhile was not heard, so that nobody can be said to be gone."""
        for task in self._gone.values():
            task.cancel()
        self._gone.clear()

    def _heard_came(self, message: Message) -> None:
        client = _client_of(message)
        task = self._gone.pop(client, None) if client is not None else None
        if task is not None:
            task.cancel()

    def _heard_gone(self, message: Message) -> None:
        client = _client_of(message)
        if client is None or client in self._gone:
            return
        task = asyncio.create_task(self._wait_for(client, self.ctx.clock.boot_s()), name=f"gone {client.session_id}")
        self._gone[client] = task
        task.add_done_callback(lambda done: self._gone.pop(client) if self._gone.get(client) is done else None)

    async def _wait_for(self, client: _Client, gone_at_s: float) -> None:
        await asyncio.sleep(self.ctx.timers.vanished_s)
        with left_to_the_next_run("the early end of a vanished factory's terms"):
            factory = await self.find_gone(client, gone_at_s)
            if factory is not None:
                await self._end_terms(factory)

    async def find_gone(self, client: _Client, gone_at_s: float) -> FactoryDoc | None:
        """The factory's document, if nobody heard of it since: neither this coordinator nor one that noted it."""
        entry = next((one for one in self.ctx.roster.entries() if one.doc.bus_key == client.public), None)
        if entry is None or (entry.heard_at_s is not None and entry.heard_at_s > gone_at_s):
            return None
        stored = await read_factory(self.ctx.store, entry.doc.product_id, entry.doc.id)
        factory = stored.factory if stored is not None else None
        if factory is None or factory.session_id != client.session_id or factory.transport is not Transport.BUS:
            return None
        return factory

    async def _end_terms(self, factory: FactoryDoc) -> None:
        self.ctx.roster.gone(factory.id)
        now = self.ctx.clock.now()
        for job in await jobs_held_by(self.ctx.store, factory.products, factory.id):
            if job.holder is not None and job.holder.session_id == factory.session_id:
                await end_term(self.ctx, job, Cause.VANISHED, now)
                log.info("%s has vanished: term %d of %s is ended", factory.id, job.lease_epoch, job.id)


def _client_of(message: Message) -> _Client | None:
    """None if the connection is not a factory's, or the message cannot be read."""
    try:
        client = orjson.loads(message.data)["client"]
        session_id = session_of_client(client["name"])
        return _Client(client["user"], session_id) if session_id and client["user"] else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
