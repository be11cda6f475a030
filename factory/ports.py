"""What a term needs of the machine: a place to work in, a way to run a program there, and how loaded it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from factory.process import Ended
from factory.workspace import Saved, Worktree
from schemas.messages import Grant


class Trees(Protocol):
    """Work trees, one a term. All but `prepare` may raise GitError; see Workspaces for what each does."""

    async def prepare(self, grant: Grant) -> Worktree: ...

    async def save(self, tree: Worktree, message: str) -> Saved | None: ...

    async def is_saved(self, tree: Worktree) -> bool: ...

    async def publish(self, tree: Worktree, saved_commit: str) -> str | None: ...

    async def diff_stat(self, tree: Worktree, commit: str) -> dict[str, int]: ...

    async def clean_up(self, tree: Worktree) -> bool: ...

    async def quarantine(self, tree: Worktree) -> Path | None: ...


class RunningEngine(Protocol):
    """A program under a launcher, which ends it at the deadline whatever became of the factory."""

    def move_deadline(self, deadline_s: float) -> None: ...

    def end(self, grace_s: float) -> None: ...

    async def wait(self) -> Ended: ...


class Launch(Protocol):
    """Starts a program. `deadline_s`: on the clock since boot, when trust runs out unless it is moved."""

    async def __call__(
        self,
        argv: tuple[str, ...],
        *,
        cwd: Path,
        env: Mapping[str, str],
        scratch: Path,
        deadline_s: float,
        on_output: Callable[[bytes], None],
    ) -> RunningEngine: ...


class Vitals(NamedTuple):
    """`load`: of the last minute, per core."""

    load: float
    free_disk_bytes: int
