"""The atomic claim once more, over the official Cosmos client and HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from chaos.live.cosmos_server import CosmosServer
from coordinator.store.cosmos import CosmosStore
from coordinator.store.port import Store
from tests.race.test_concurrent_claims_have_one_winner import ClaimRaces

pytestmark = pytest.mark.xdist_group("cosmos")


class TestClaimRacesOnCosmos(ClaimRaces):
    @pytest.fixture
    async def store(self, cosmos_server: CosmosServer) -> AsyncIterator[Store]:
        store = CosmosStore(cosmos_server.endpoint, cosmos_server.key, database=f"test-{uuid4().hex}", timeout_s=30.0)
        await store.open()
        yield store
        await store.close()
