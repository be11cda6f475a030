"""No bus at all: everything goes over REST."""

from __future__ import annotations

from collections.abc import Callable

from bus.port import CONCURRENCY, REQUEST_WAITS_S, BusUnavailable, Listener, Message, Responder


class _NoSubscription:
    async def stop(self) -> None: ...


class NoBus:
    connected = False
    dropped = 0
    refused = 0

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def on_change(self, listener: Callable[[bool], None]) -> None: ...

    async def publish(self, subject: str, data: bytes, message_id: str | None = None) -> None:
        raise BusUnavailable("there is no bus")

    async def subscribe(self, subject: str, listener: Listener, queue: str | None = None) -> _NoSubscription:
        return _NoSubscription()

    async def serve(
        self,
        subject: str,
        respond: Responder,
        queue: str,
        allows_reply: Callable[[Message], bool],
        concurrency: int = CONCURRENCY,
        waits_s: float = REQUEST_WAITS_S,
    ) -> _NoSubscription:
        return _NoSubscription()

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        raise BusUnavailable("there is no bus")

    async def ensure_event_stream(self) -> None:
        raise BusUnavailable("there is no bus")
