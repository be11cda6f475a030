"""The service itself: alive, ready (and what is degraded), and its metrics."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import Request, Response
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from coordinator.http import examples
from coordinator.http.answers import Alive, Readiness
from coordinator.http.app_state import Deps, deps_of
from coordinator.http.auth import Anybody
from coordinator.http.json_routes import make_router
from coordinator.store.port import JOBS, StoreError
from schemas.job import Job
from schemas.projections import EventDoc

router = make_router("service")


class FleetMetrics(Collector):
    """Gauges read off the indexes at each scrape; events counted as they are committed here."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self.registry = CollectorRegistry()
        self._events = Counter("gigafactory_events", "Transitions committed here.", ["type"], registry=self.registry)
        self.registry.register(self)

    def after_commit(self, _job: Job, events: tuple[EventDoc, ...]) -> None:
        for event in events:
            self._events.labels(event.type).inc()

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        ctx = self._deps.ctx
        jobs = GaugeMetricFamily("gigafactory_jobs", "Unfinished jobs by stage.", labels=["stage"])
        for stage, count in ctx.ready.counts().items():
            jobs.add_metric([stage], count)
        yield jobs
        health: dict[str, int] = {}
        for entry in ctx.roster.entries():
            name = str(ctx.roster.health(entry))
            health[name] = health.get(name, 0) + 1
        factories = GaugeMetricFamily("gigafactory_factories", "Factories by health.", labels=["health"])
        for name, count in health.items():
            factories.add_metric([name], count)
        yield factories
        yield GaugeMetricFamily("gigafactory_bus_connected", "1 while the bus is there.", int(self._deps.bus.connected))
        yield CounterMetricFamily("gigafactory_offers", "Offers published.", self._deps.offers.published)
        yield CounterMetricFamily("gigafactory_bus_dropped", "Messages not heard in time.", self._deps.bus.dropped)
        yield CounterMetricFamily("gigafactory_bus_refused", "Requests with a foreign reply.", self._deps.bus.refused)


@router.get("/healthz", summary="The process lives", responses=examples.answers(examples.ALIVE))
async def healthz() -> Alive:
    return Alive(status="ok")


@router.get(
    "/readyz",
    summary="Whether it can work, and which of store and bus is degraded",
    responses={
        **examples.answers(examples.READINESS),
        **examples.answers(
            {"status": "unavailable", "store": "unavailable: the disk is full", "bus": "ok"},
            503,
            "the store does not answer",
            Readiness,
        ),
    },
)
async def readyz(request: Request, response: Response) -> Readiness:
    """503 without the store. Without the bus it is ready and degraded: everything goes over REST."""
    deps = deps_of(request)
    store = "ok"
    try:
        await deps.ctx.store.partitions(JOBS, limit=1)
    except StoreError as error:
        store, response.status_code = f"unavailable: {error}", 503
    bus = "ok" if deps.bus.connected else "unavailable: REST only"
    status = "unavailable" if store != "ok" else "ok" if bus == "ok" else "degraded"
    return Readiness(status=status, store=store, bus=bus)


@router.get(
    "/metrics",
    summary="Prometheus metrics; any valid token",
    response_class=Response,
    responses=examples.answers(examples.METRICS, media="text/plain"),
)
async def metrics(request: Request, principal: Anybody) -> Response:
    return Response(generate_latest(request.app.state.metrics.registry), media_type="text/plain; version=0.0.4")
