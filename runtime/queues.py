"""One queue per key: contenders in this process take turns instead of colliding, or share what they all want."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class KeyedQueues:
    def __init__(self) -> None:
        self._locks: dict[Hashable, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def turn(self, key: Hashable) -> AsyncIterator[None]:
        """Waits for this key's turn; first come, first served."""
        lock, users = self._locks.get(key) or (asyncio.Lock(), 0)
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)


class SharedReads(Generic[T]):
    """A crowd that reads the same at once shares a read, which began after each of them asked: nobody is answered by
    what was so before. If it fails, it has failed for all of them, and for nobody who asks later.
    """

    def __init__(self) -> None:
        self._queues = KeyedQueues()
        self._moments = itertools.count()
        self._last: dict[Hashable, tuple[int, T | Exception]] = {}
        self._readers: dict[Hashable, int] = {}

    async def fresh(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        asked = next(self._moments)
        self._readers[key] = self._readers.get(key, 0) + 1
        try:
            async with self._queues.turn(key):
                last = self._last.get(key)
                if last is None or last[0] < asked:
                    last = self._last[key] = next(self._moments), await self._read(read)
                if isinstance(last[1], Exception):
                    raise last[1].with_traceback(None)  # or it would grow with each who is told
                return last[1]
        finally:
            self._readers[key] -= 1
            if not self._readers[key]:
                del self._readers[key]
                self._last.pop(key, None)

    @staticmethod
    async def _read(read: Callable[[], Awaitable[T]]) -> T | Exception:
        try:
            return await read()
        except Exception as error:
            return error
