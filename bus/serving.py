"""What every implementation of the bus shares: above all, responders side by side behind one listener."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from bus.port import MESSAGE_BYTES_MAX, BusError, Message, Responder

log = logging.getLogger(__name__)

HEADER_BYTES_MAX = 512  # a broker's limit counts a message's headers too
WAITING_MAX = 4096  # requests; those behind so many have long been repeated another way


@dataclass
class Counts:
    dropped: int = 0
    refused: int = 0


class Serving:
    """At most `concurrency` responders run; up to WAITING_MAX requests wait in order, none longer than `waits_s`: one
    begun later is answered to nobody, at the cost of others. The rest is dropped.

    `hear` never waits. A responder that fails leaves its request unanswered: the asker repeats it.
    """

    def __init__(
        self,
        respond: Responder,
        allows_reply: Callable[[Message], bool],
        answer: Callable[[str, bytes], Awaitable[None]],
        concurrency: int,
        waits_s: float,
        counts: Counts,
    ) -> None:
        assert concurrency > 0
        self._respond = respond
        self._allows_reply = allows_reply
        self._answer = answer
        self._concurrency = concurrency
        self._waits_s = waits_s
        self._counts = counts
        self._running: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[float, Message]] = deque()
        self._stopped = False

    def hear(self, message: Message) -> None:
        if self._stopped:
            return
        if not self._allows_reply(message):
            self._counts.refused += 1
            log.warning("dropped a request on %s: reply %r is not allowed there", message.subject, message.reply)
        elif len(self._running) < self._concurrency:
            self._begin(message)
        elif len(self._waiting) < WAITING_MAX:
            self._waiting.append((asyncio.get_running_loop().time(), message))
        else:
            self._counts.dropped += 1

    async def stop(self) -> None:
        self._stopped = True
        self._waiting.clear()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _begin(self, message: Message) -> None:
        task = asyncio.create_task(self._settle(message), name=f"answer {message.subject}")
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        now_s = asyncio.get_running_loop().time()
        while self._waiting and not self._stopped:
            heard_s, message = self._waiting.popleft()
            if now_s - heard_s <= self._waits_s:
                self._begin(message)
                return
            self._counts.dropped += 1

    async def _settle(self, message: Message) -> None:
        try:
            answer = await self._respond(message)
            if answer is not None and message.reply is not None:
                await self._answer(message.reply, answer)
        except BusError as error:
            log.info("the answer to %s was not sent: %s", message.subject, error)
        except Exception:
            log.exception("the responder to %s failed; its request stays unanswered", message.subject)


def deliver(listener: Callable[[Message], None], message: Message) -> None:
    """One listener's failure must not take the messages behind it along."""
    try:
        listener(message)
    except Exception:
        log.exception("a listener to %s failed", message.subject)


def announce(listeners: Iterable[Callable[[bool], None]], connected: bool) -> None:
    for listener in listeners:
        try:
            listener(connected)
        except Exception:
            log.exception("a listener to the bus's coming and going failed")


def check_size(subject: str, data: bytes, message_id: str | None = None) -> None:
    """Before it is sent, because a broker answers a message that is too large by closing the connection."""
    limit = MESSAGE_BYTES_MAX - (0 if message_id is None else HEADER_BYTES_MAX)
    if len(data) > limit:
        raise BusError(f"{subject}: {len(data)} bytes, and at most {limit} can be sent")
