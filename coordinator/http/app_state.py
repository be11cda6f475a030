"""The state that the application keeps for its routes."""

from __future__ import annotations

from fastapi import Request

from coordinator.context import Context


def context_of(request: Request) -> Context:
    ctx: Context = request.app.state.ctx
    return ctx
