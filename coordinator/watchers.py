"""Wakes the calls that watch a job when it changed. Watchers read the store; a missed wake-up costs a poll interval."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from schemas.ids import JobKey
from schemas.job import Job
from schemas.projections import EventDoc


class Watchers:
    def __init__(self) -> None:
        self._watchers: dict[JobKey, set[asyncio.Event]] = {}

    def after_commit(self, job: Job, _events: tuple[EventDoc, ...]) -> None:
        self.changed(job.key)

    def changed(self, key: JobKey) -> None:
        for watcher in self._watchers.get(key, ()):
            watcher.set()

    def wake_all(self) -> None:
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.set()

    @asynccontextmanager
    async def watch(self, key: JobKey) -> AsyncIterator[asyncio.Event]:
        """An event that is set at each change; the watcher clears it before it looks."""
        watcher = asyncio.Event()
        self._watchers.setdefault(key, set()).add(watcher)
        try:
            yield watcher
        finally:
            self._watchers[key].discard(watcher)
            if not self._watchers[key]:
                del self._watchers[key]
