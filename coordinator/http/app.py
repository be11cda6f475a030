"""The application: every route, every error as a problem document."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from coordinator.context import Context
from coordinator.http import actions, claims, factories, jobs, problems, runs, service, terms
from coordinator.http.examples.common import PROBLEM
from coordinator.metrics import FleetMetrics

API_VERSION = "1"
RESOURCES = (jobs, terms, actions, claims, runs, factories, service)


def make_app(ctx: Context, metrics: FleetMetrics) -> FastAPI:
    app = FastAPI(
        title="Agent Gigafactory",
        version=API_VERSION,
        summary="A distributed fleet for AI coding agents.",
        responses={"default": {"model": problems.Problem, "description": "RFC 9457 problem document"}},
    )
    plain = app.openapi
    app.openapi = lambda: _with_problems(plain())  # type: ignore[method-assign]
    app.state.ctx = ctx
    app.state.metrics = metrics
    problems.install(app)
    for resource in RESOURCES:
        app.include_router(resource.router)
    return app


def _with_problems(schema: dict[str, Any]) -> dict[str, Any]:
    """Errors are told under the type that they come as, with an example; 422 is one of them."""
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            default = operation["responses"]["default"]
            told = default["content"].pop("application/json", None)
            if told is not None:
                default["content"]["application/problem+json"] = {**told, "example": PROBLEM}
    return schema
