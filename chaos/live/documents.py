"""The documents of a store, as a verdict needs them when a run is over."""

from __future__ import annotations

from typing import Any

from coordinator.store.port import EVENTS, FACTORIES, JOBS, LEASES, QUERY_LIMIT_MAX, RUNS, Query, Store

KEPT = (JOBS, EVENTS, RUNS, LEASES, FACTORIES)


async def documents_of(store: Store) -> dict[str, list[dict[str, Any]]]:
    """By container. Opens and closes the store, which nobody else may use meanwhile."""
    await store.open()
    try:
        return {container: await _all_of(store, container) for container in KEPT}
    finally:
        await store.close()


async def _all_of(store: Store, container: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: str | None = None
    while partitions := await store.partitions(container, after):
        after = partitions[-1]
        for partition in partitions:
            last: str | int | None = None
            while page := await store.query(Query(container, partition, after=last, limit=QUERY_LIMIT_MAX)):
                found += [stored.doc for stored in page]
                last = page[-1].doc["id"]
    return found
