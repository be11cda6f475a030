"""The service itself: alive, ready (and what is degraded), and its metrics."""

from __future__ import annotations

from fastapi import Request, Response
from prometheus_client import generate_latest

from coordinator.http.answers import Alive, Readiness
from coordinator.http.app_state import context_of
from coordinator.http.auth import Anybody
from coordinator.http.examples import service as examples
from coordinator.http.examples.common import answers
from coordinator.http.json_routes import make_router
from coordinator.store.port import JOBS, StoreError

router = make_router("service")


@router.get("/healthz", summary="The process lives", responses=answers(examples.ALIVE))
async def healthz() -> Alive:
    return Alive(status="ok")


@router.get(
    "/readyz",
    summary="Whether it can work, and which of store and bus is degraded",
    responses={
        **answers(examples.READINESS),
        **answers(
            {"status": "unavailable", "store": "unavailable: the disk is full", "bus": "ok"},
            503,
            "the store does not answer",
            Readiness,
        ),
    },
)
async def readyz(request: Request, response: Response) -> Readiness:
    """503 without the store. Without the bus it is ready and degraded: everything goes over REST."""
    ctx = context_of(request)
    store = "ok"
    try:
        await ctx.store.partitions(JOBS, limit=1)
    except StoreError as error:
        store, response.status_code = f"unavailable: {error}", 503
    bus = "ok" if ctx.bus.connected else "unavailable: REST only"
    status = "unavailable" if store != "ok" else "ok" if bus == "ok" else "degraded"
    return Readiness(status=status, store=store, bus=bus)


@router.get(
    "/metrics",
    summary="Prometheus metrics; any valid token",
    response_class=Response,
    responses=answers(examples.METRICS, media="text/plain"),
)
async def metrics(request: Request, principal: Anybody) -> Response:
    return Response(generate_latest(request.app.state.metrics.registry), media_type="text/plain; version=0.0.4")
