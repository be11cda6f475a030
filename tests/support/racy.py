"""A store with the fault that this project exists to exclude, kept so that the race tests can be shown to see it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from coordinator.store.memory import MemoryStore
from coordinator.store.port import Derived, Guarded, WriteStatus, Written


class RacyStore(MemoryStore):
    """Checks the etags, lets others run, and then writes whatever has happened meanwhile."""

    async def commit(self, guarded: Sequence[Guarded], then: Sequence[Derived] = ()) -> Written:
        for write in guarded:
            entry = self.entry_at(write.address)
            etag = None if entry is None else entry[1]
            if etag != (write.expected if isinstance(write.expected, str) else None):
                return self.commit_now(guarded, then)  # refused, as it should be
        await asyncio.sleep(0)
        etags = tuple(self.put(write.container, write.doc) for write in guarded)
        self.project_now(then)
        return Written(WriteStatus.OK, etags)
