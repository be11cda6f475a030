"""Server-sent events: how a stream is written, and whether it is live or polls."""

from __future__ import annotations

from typing import Any

import orjson

from coordinator.http.deps import Deps

KEEP_ALIVE_S = 15.0
POLL_S = 1.0


def sse(name: str, data: Any, event_id: str | None = None) -> str:
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {name}\ndata: {orjson.dumps(data).decode()}\n\n"


def mode_of(deps: Deps) -> str:
    """`live` where every change is heard of at once, `polling` where other coordinators' are not, for want of a bus."""
    return "live" if deps.alone or deps.bus.connected else "polling"
