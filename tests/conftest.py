"""Servers that several kinds of tests share, and which tests a developer's loop leaves out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos.live.cosmos_server import CosmosServer

pytest_plugins = ["tests.support.open_loops"]

NEEDS_SERVERS = ("tests/e2e/", "tests/chaos/test_live.py", "tests/contract/test_bus_nats.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs servers as slow; what is slow by itself says so where it stands.

    What runs in a row on one worker comes first: at the end the other workers would have nothing left to do.
    """
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)
    for item in items:
        place = item.path.as_posix()
        if any(name in place for name in NEEDS_SERVERS) or "cosmos_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def cosmos_server() -> Iterator[CosmosServer]:
    server = CosmosServer()
    server.start()
    yield server
    server.stop()
