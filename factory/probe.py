"""Whether a machine can do what it could not: a job of late, up to where its engine would begin."""

from __future__ import annotations

from dataclasses import dataclass

from factory.ports import Launch, Trees, Worktree
from factory.surroundings.surroundings import Surroundings
from runtime.clock import Clock
from schemas.messages import Grant

PROBE = "probe"  # in place of a job's id
PROGRAM_WITHIN_S = 30.0


@dataclass(frozen=True)
class Probe:
    trees: Trees
    launch: Launch
    surroundings: Surroundings
    clock: Clock

    async def of(self, failed: Grant) -> None:
        """In a term of no fleet's, with an empty program for the engine. Raises what keeps this machine from it."""
        number = int(self.clock.now().timestamp() * 1000)
        grant = failed.model_copy(update={"job_id": PROBE, "lease_epoch": number, "checkpoint": None})
        folders = self.surroundings.folders.of(PROBE, number)
        try:
            self.surroundings.prepare(grant, folders)
            tree = await self.trees.prepare(grant, lambda _line: None)
            try:
                await self._run_nothing(grant, tree)
            finally:
                await self.trees.clean_up(tree)
        finally:
            await folders.remove()

    async def _run_nothing(self, grant: Grant, tree: Worktree) -> None:
        folders = self.surroundings.folders.of(grant.job_id, grant.lease_epoch)
        engine = await self.launch(
            ("true",),
            cwd=tree.work_dir,
            env=self.surroundings.env(grant, folders),
            control=folders.control,
            deadline_s=self.clock.boot_s() + PROGRAM_WITHIN_S,
            on_output=lambda _data: None,
            around=self.surroundings.around(grant, tree, folders),
        )
        ended = await engine.wait()
        if ended.reason != "exited" or ended.rc != 0:
            raise OSError(f"an empty program was not run: {ended.reason} {ended.error}".strip())
