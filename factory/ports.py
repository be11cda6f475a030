"""What a term needs of the machine: a place to work in, a way to run a program there, and how loaded it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from factory.git.run import GitError
from schemas.messages import Grant


class Fault(StrEnum):
    """Who is to blame where no tree can be made: the manifest, the server that it names, or this machine."""

    MANIFEST = "manifest"
    REMOTE = "remote"
    MACHINE = "machine"


class WorkspaceError(Exception):
    """The tree cannot be made, in a sentence."""

    def __init__(self, sentence: str, fault: Fault) -> None:
        super().__init__(sentence)
        self.fault = fault


class TreeError(GitError):
    """What the job left in its tree keeps git from saving it, in a sentence."""


@dataclass(frozen=True)
class Saved:
    """A snapshot of the tree as a commit; `ref` where it was pushed, `local` when it lies on this machine only."""

    commit: str
    tree: str
    ref: str
    local: bool


@dataclass
class Worktree:
    """`remote`: where work is pushed, None for a scratch tree. `local`: on this machine only. `settled`: all that the
    engine left is saved, and nothing that comes after it is the term's work. `notes`: what could not be saved, in
    sentences.
    """

    path: Path
    work_dir: Path
    remote: str | None
    job_id: str
    lease_epoch: int
    base: str
    local: bool
    settled: bool = False
    notes: tuple[str, ...] = ()

    @property
    def open_places(self) -> tuple[Path, ...]:
        """What the term's programs may write to, by which its tree is reached."""
        return (self.path,)

    @property
    def closed_places(self) -> tuple[Path, ...]:
        """What of `open_places` they may not see."""
        return ()

    @property
    def ref(self) -> str:
        return f"refs/gigafactory/{self.job_id}/{self.lease_epoch}"

    @property
    def branch(self) -> str:
        return f"fleet/{self.job_id}/{self.lease_epoch}"  # not the ref's name: git takes refs/X before a branch X


@dataclass(frozen=True)
class Ended:
    """`reason`: exited, told, trust_lost, factory_gone, not_started or launcher_gone. `rc`: negative for a signal."""

    reason: str
    rc: int
    error: str = ""


Place = Callable[[Path, Worktree], Path | None]  # where that is which a term's programs have at a path; None: nowhere


class Trees(Protocol):
    """Work trees, one a term. `prepare` may raise WorkspaceError, the others GitError; see Workspaces."""

    async def prepare(self, grant: Grant, progress: Callable[[str], None]) -> Worktree: ...

    async def save(self, tree: Worktree, message: str) -> Saved | None: ...

    async def settle(self, tree: Worktree) -> bool: ...

    async def publish(self, tree: Worktree, saved_commit: str) -> str | None: ...

    async def diff_stat(self, tree: Worktree, commit: str) -> dict[str, int]: ...

    async def changed_since(self, tree: Worktree, commit: str) -> list[str]: ...

    async def clean_up(self, tree: Worktree) -> bool: ...

    async def quarantine(self, tree: Worktree, why: str) -> Path | None: ...


class RunningEngine(Protocol):
    """A program under a launcher, which ends it at the deadline whatever became of the factory."""

    def move_deadline(self, deadline_s: float) -> None: ...

    def end(self, grace_s: float) -> None: ...

    async def wait(self) -> Ended: ...


class Launch(Protocol):
    """Starts a program. `deadline_s`: on the clock since boot, when trust runs out unless it is moved. `control`: the
    folder of the term's notes. `around`: the words of a sandbox to go before the program's own.
    """

    async def __call__(
        self,
        argv: tuple[str, ...],
        *,
        cwd: Path,
        env: Mapping[str, str],
        control: Path,
        deadline_s: float,
        on_output: Callable[[bytes], None],
        around: tuple[str, ...] = (),
    ) -> RunningEngine: ...


class Vitals(NamedTuple):
    """`load`: of the last minute, per core."""

    load: float
    free_disk_bytes: int
