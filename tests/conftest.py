"""Servers that several kinds of tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chaos.live.cosmos_server import CosmosServer


@pytest.fixture(scope="module")
def cosmos_server() -> Iterator[CosmosServer]:
    server = CosmosServer()
    server.start()
    yield server
    server.stop()
