"""The fleet's metrics, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from coordinator.context import Context
from coordinator.loops.offers import Offers
from schemas.job import Job
from schemas.projections import EventDoc


class FleetMetrics(Collector):
    """Gauges read off the indexes at each scrape; events counted as they are committed here."""

    def __init__(self, ctx: Context, offers: Offers) -> None:
        self._ctx = ctx
        self._offers = offers
        self.registry = CollectorRegistry()
        self._events = Counter("gigafactory_events", "Transitions committed here.", ["type"], registry=self.registry)
        self.registry.register(self)

    def after_commit(self, _job: Job, events: tuple[EventDoc, ...]) -> None:
        for event in events:
            self._events.labels(event.type).inc()

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        ctx = self._ctx
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
        yield GaugeMetricFamily("gigafactory_bus_connected", "1 while the bus is there.", int(ctx.bus.connected))
        yield CounterMetricFamily("gigafactory_offers", "Offers published.", self._offers.published)
        yield CounterMetricFamily("gigafactory_bus_dropped", "Messages not heard in time.", ctx.bus.dropped)
        yield CounterMetricFamily("gigafactory_bus_refused", "Requests with a foreign reply.", ctx.bus.refused)
