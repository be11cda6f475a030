"""What the coordinator tells over the bus: events, orders, roster notes, in order, from one task.

Each message may be lost: the store has the truth, and a reader that needs it asks again. So a full queue drops the
oldest.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import NamedTuple

import orjson

from bus.port import Bus, BusError
from bus.subjects import ctl_subject, event_subject, roster_subject
from runtime.loop import cancel
from schemas.job import Job
from schemas.messages import Control, RosterNote, WireMessage
from schemas.projections import EventDoc

WAITING_MAX = 10_000


class _Outgoing(NamedTuple):
    subject: str
    data: bytes
    message_id: str | None


class Publisher:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: deque[_Outgoing] = deque(maxlen=WAITING_MAX)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="publisher")

    async def stop(self) -> None:
        if self._task is not None:
            await cancel(self._task)

    def after_commit(self, job: Job, events: tuple[EventDoc, ...]) -> None:
        for event in events:
            self._send(event_subject(job.product_id, job.id), event.to_doc() | {"v": 1}, event.id)

    def send_control(self, factory_id: str, control: Control) -> None:
        self._send(ctl_subject(factory_id), control.to_doc())

    def send_roster(self, factory_id: str, note: RosterNote) -> None:
        self._send(roster_subject(factory_id), note.to_doc())

    def send_answer(self, reply: str, answer: WireMessage) -> None:
        self._send(reply, answer.to_doc())

    def _send(self, subject: str, doc: dict[str, object], message_id: str | None = None) -> None:
        self._waiting.append(_Outgoing(subject, orjson.dumps(doc), message_id))
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                outgoing = self._waiting.popleft()
                if not self._bus.connected:
                    continue
                with contextlib.suppress(BusError):
                    await self._bus.publish(*outgoing)
