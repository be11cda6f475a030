"""The atomic claim once more, over the official Cosmos client and HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from chaos.live.cosmos_server import CosmosServer
from coordinator.store.cosmos import CosmosStore
from coordinator.store.port import Store
from tests.race.test_concurrent_claims_have_one_winner import ClaimRaces

pytestmark = pytest.mark.xdist_group("cosmos")


@pytest.fixture(scope="module")
def server() -> Iterator[CosmosServer]:
    server = CosmosServer()
    server.start()
    yield server
    server.stop()


class TestClaimRacesOnCosmos(ClaimRaces):
    @pytest.fixture
    async def store(self, server: CosmosServer) -> AsyncIterator[Store]:
        store = CosmosStore(server.endpoint, server.key, database=f"test-{uuid4().hex}", timeout_s=30.0)
        await store.open()
        yield store
        await store.close()
