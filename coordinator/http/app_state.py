"""What the routes work with; kept on the application."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from bus.port import Bus
from coordinator.context import Context
from coordinator.loops.offers import Offers
from coordinator.term_logs import LogFiles
from coordinator.watchers import Watchers


@dataclass
class Deps:
    """`alone`: no other coordinator shares the store, so every change is heard of in this process."""

    ctx: Context
    bus: Bus
    watchers: Watchers
    logs: LogFiles
    offers: Offers
    alone: bool


def deps_of(request: Request) -> Deps:
    deps: Deps = request.app.state.deps
    return deps
