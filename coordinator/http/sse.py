"""Server-sent events: how a stream is written, whether it is live or polls, and for how long anybody may listen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi import Request
from fastapi.responses import StreamingResponse

from coordinator.context import Context
from coordinator.http.app_state import context_of
from coordinator.http.auth import authenticated
from coordinator.store.port import StoreError
from schemas.errors import FleetError

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 15.0
POLL_S = 1.0


def sse(name: str, data: Any, event_id: str | None = None) -> str:
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {name}\ndata: {orjson.dumps(data).decode()}\n\n"


def mode_of(ctx: Context) -> str:
    """`live` where every change is heard of at once, `polling` where other coordinators' are not, for want of a bus."""
    return "live" if ctx.alone or ctx.bus.connected else "polling"


def streaming(lines: AsyncIterator[str]) -> StreamingResponse:
    """A stream whose store fails, or whose token is revoked, ends; its reader resumes where it was."""

    async def until_trouble() -> AsyncIterator[str]:
        try:
            async for line in lines:
                yield line
        except (StoreError, FleetError) as error:
            log.info("a stream ends: %s", error)

    return StreamingResponse(
        until_trouble(),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def check_still_allowed(request: Request, product_id: str) -> None:
    """A stream ends when its token is revoked. Raises unauthorized or forbidden."""
    principal = await authenticated(context_of(request), request.headers.get("authorization"), is_asking=False)
    principal.checked_product(product_id)


class Ticks:
    """The pauses of a stream: until a change, a change of mode, or a poll that is due; keep-alives in between."""

    def __init__(self, ctx: Context, changed: asyncio.Event) -> None:
        self._ctx = ctx
        self._changed = changed
        self._silent_s = 0.0

    def told(self) -> None:
        self._silent_s = 0.0

    async def next(self, mode: str) -> bool:
        """False: only a keep-alive is due."""
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._changed.wait()
                return True
            except TimeoutError:
                self._silent_s += POLL_S
            if self._silent_s >= KEEP_ALIVE_S:
                self._silent_s = 0.0
                return False
            if mode == "polling" or mode_of(self._ctx) != mode:
                return True
