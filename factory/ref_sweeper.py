"""Removes the fleet's own refs of jobs that ended long ago from the sources that this machine has copies of."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from factory.git.run import GitError
from factory.link.port import Unanswered
from factory.ports import WorkspaceError
from factory.workspace.fleet_refs import delete_refs, fleet_refs
from factory.workspace.workspaces import Workspaces
from schemas.errors import FleetError
from schemas.messages import ENDED_MAX

log = logging.getLogger(__name__)

EndedJobs = Callable[[Sequence[str], float], Awaitable[Sequence[str]]]  # which of them ended so many seconds ago


@dataclass(frozen=True)
class RefSweeper:
    """`keep_s`: from the end of a job. What no coordinator of this factory knows of is another fleet's, and stays."""

    workspaces: Workspaces
    ended_jobs: EndedJobs
    keep_s: float

    async def sweep(self) -> int:
        """How many refs were removed. A source that does not answer is left to the next time."""
        removed = 0
        for url, copy in self.workspaces.sources().items():
            try:
                removed += await self._sweep(url, copy)
            except (GitError, WorkspaceError, Unanswered, FleetError) as error:
                log.info("the refs of ended jobs in %s are left to the next time: %s", url, error)
        return removed

    async def _sweep(self, url: str, copy: Path) -> int:
        there = await fleet_refs(url)
        asked = list(there)
        doomed: list[str] = []
        for start in range(0, len(asked), ENDED_MAX):
            for job_id in await self.ended_jobs(asked[start : start + ENDED_MAX], self.keep_s):
                doomed += there.get(job_id, [])
        if doomed:
            await delete_refs(url, doomed, copy)
            log.info("%d refs of jobs that ended long ago are removed from %s", len(doomed), url)
        return len(doomed)
