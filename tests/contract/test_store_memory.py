import pytest

from coordinator.store.memory import MemoryStore
from coordinator.store.port import Store
from tests.contract.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    async def store(self) -> Store:
        return MemoryStore()


class TestMemoryStoreWithoutTransactionsOverContainers(StoreContract):
    @pytest.fixture
    async def store(self) -> Store:
        return MemoryStore(atomic_then=False)
