"""The one port to a message bus.

Nothing here is durable or certain: a message may be lost, late or repeated, and a failed call may have been
heard. A call made while the bus is away fails at once instead of waiting or being buffered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from runtime.settings import Timers

MESSAGE_BYTES_MAX = 1024 * 1024
REQUEST_WAITS_S = Timers.request_waits_s
CONCURRENCY = 32  # with more requests side by side each is slower, until all are answered too late


class BusError(Exception):
    """The message may or may not have been heard."""


class BusUnavailable(BusError):
    """Not connected, or nobody listens: said at once."""


class BusTimeout(BusError):
    """No answer in time."""


class Message(NamedTuple):
    subject: str
    data: bytes
    reply: str | None = None


Listener = Callable[[Message], None]
"""Runs on the loop and must only enqueue: it holds up every message behind it."""

Responder = Callable[[Message], Awaitable[bytes | None]]
"""Answers a request; None leaves it unanswered. Several run at once."""


class Subscription(Protocol):
    async def stop(self) -> None: ...


class Bus(Protocol):
    @property
    def connected(self) -> bool: ...

    @property
    def dropped(self) -> int:
        """Messages lost on this side because a listener or the responders were too slow."""

    @property
    def refused(self) -> int:
        """Requests dropped unheard because their reply was not allowed: each is an alarm."""

    async def start(self) -> None:
        """Begins to connect and returns within a second, connected or not; goes on trying until `close`.

        Subscriptions may be made before, and hold across reconnects.
        """

    async def close(self) -> None: ...

    def on_change(self, listener: Callable[[bool], None]) -> None:
        """Called with True after each connect and False after each loss."""

    async def publish(self, subject: str, data: bytes, message_id: str | None = None) -> None:
        """`message_id` lets the event stream drop a repeat. Raises BusUnavailable."""

    async def subscribe(self, subject: str, listener: Listener, queue: str | None = None) -> Subscription:
        """With `queue`, each message goes to one member of that group."""

    async def serve(
        self,
        subject: str,
        respond: Responder,
        queue: str,
        allows_reply: Callable[[Message], bool],
        concurrency: int = CONCURRENCY,
        waits_s: float = REQUEST_WAITS_S,
    ) -> Subscription:
        """Answers requests, at most `concurrency` at once. One that waits longer than `waits_s` for its turn is dropped
        and counted in `dropped`; one whose reply `allows_reply` refuses is dropped unheard and counted in `refused`.
        Stopping cancels the responders that run.
        """

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """Raises BusUnavailable or BusTimeout."""

    async def ensure_event_stream(self) -> None:
        """Makes the durable stream over all events if it is missing. A coordinator's alone. Raises
        BusError.
        """
