"""What the routes work with; kept on the application."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from bus.port import Bus
from coordinator.context import Context
from coordinator.feed import Feed
from coordinator.logs import LogFiles
from coordinator.loops.offers import Offers


@dataclass
class Deps:
    """`alone`: no other coordinator shares the store, so every change is heard of in this process."""

    ctx: Context
    bus: Bus
    feed: Feed
    logs: LogFiles
    offers: Offers
    alone: bool


def deps_of(request: Request) -> Deps:
    deps: Deps = request.app.state.deps
    return deps
