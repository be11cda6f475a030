"""Removes what finished terms left once it is old: their folders, trees without a repository to be pushed to, logs that
no coordinator would hear.

Only files of terms that are over, acknowledged and saved. A person empties the quarantine.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from factory.ref_sweeper import RefSweeper
from factory.workspace.workspaces import Workspaces
from runtime.clock import Clock
from runtime.settings import Timers

log = logging.getLogger(__name__)

PASS_MAX = 20  # per kind: a pass is short, and more of them follow while there is more to do
PASS_EVERY_S = 3600.0
NEXT_PASS_S = 5.0

_term = re.compile(r"(.+)-([0-9]+)")


@dataclass(frozen=True)
class Pruner:
    """`is_live`: of a job and epoch, whether its term runs or its end is not acknowledged. `keep_s` by wall time."""

    data: Path
    workspaces: Workspaces
    is_live: Callable[[str, int], bool]
    clock: Clock
    keep_s: float = Timers.keep_s
    refs: RefSweeper | None = None

    async def run(self) -> None:
        while True:
            try:
                full = await self.once() >= PASS_MAX
            except OSError as error:  # something went away beneath it: the next pass looks again
                log.info("nothing more is tidied away for now: %s", error)
                full = False
            if not full and self.refs is not None:
                await self.refs.sweep()
            await asyncio.sleep(NEXT_PASS_S if full else PASS_EVERY_S)

    async def once(self) -> int:
        """How many were removed, or turned out to hold more than was saved."""
        before = self.clock.now().timestamp() - self.keep_s
        done = 0
        for folder in (await asyncio.to_thread(self._old_terms, before))[:PASS_MAX]:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            done += 1
        for tree in (await asyncio.to_thread(self._old_trees, before))[:PASS_MAX]:
            try:
                await self.workspaces.remove_finished(tree)
            except OSError as error:
                log.warning("%s stays where it is: %s", tree, error)
                continue
            done += 1
        for path in (await asyncio.to_thread(self._old_logs, before))[:PASS_MAX]:
            log.warning("%s was never heard by a coordinator, and goes", path)
            for file in (path, path.with_suffix(".json")):
                file.unlink(missing_ok=True)
            done += 1
        if done:
            log.info("%d leftovers of terms that ended long ago are tidied away", done)
        return done

    def _old_terms(self, before: float) -> list[Path]:
        """A launcher's note means that nobody has yet made sure of its death."""
        found = []
        for folder in sorted((self.data / "terms").glob("*")):
            name = _term.fullmatch(folder.name)
            if name is None or self.is_live(name[1], int(name[2])) or (folder / "launcher.json").exists():
                continue
            if all(_older(path, before) for path in (folder, *folder.iterdir())):
                found.append(folder)
        return found

    def _old_logs(self, before: float) -> list[Path]:
        return [path for path in sorted((self.data / "logs").glob("*.log")) if _older(path, before)]

    def _old_trees(self, before: float) -> list[Path]:
        trees = self.workspaces.finished()
        return [tree for tree in trees if _older(tree, before) and not self.is_live(tree.parent.name, int(tree.name))]


def _older(path: Path, before: float) -> bool:
    try:
        return path.lstat().st_mtime < before
    except FileNotFoundError:  # gone meanwhile
        return True
