"""The application: every route, every error as a problem document."""

from __future__ import annotations

from fastapi import FastAPI

from coordinator.http import claims, factories, jobs, problems, runs, service
from coordinator.http.deps import Deps

API_VERSION = "1"


def make_app(deps: Deps) -> FastAPI:
    app = FastAPI(
        title="Agent Gigafactory",
        version=API_VERSION,
        summary="A distributed fleet for AI coding agents.",
        responses={"default": {"model": problems.Problem, "description": "RFC 9457 problem document"}},
    )
    app.state.deps = deps
    app.state.metrics = service.FleetMetrics(deps)
    deps.ctx.projector.tell(app.state.metrics.after_commit)
    problems.install(app)
    for resource in (jobs, claims, runs, factories, service):
        app.include_router(resource.router)
    return app
