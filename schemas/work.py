"""What a manifest asks to be done. A key that reaches the engine is written once: Manifest, Job, Grant inherit it."""

from __future__ import annotations

import posixpath
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.base import Schema, Timestamp

TIMEOUT_DEFAULT_S = 3600.0


class Engine(StrEnum):
    CLAUDE = "claude"
    CODEX = "codex"
    DEVIN = "devin"
    SHELL = "shell"


class Priority(StrEnum):
    CRITICAL = "critical"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Budget(Schema):
    """Of the whole job. None: no limit."""

    usd: float | None = None
    tokens: int | None = None
    wall_s: float | None = None


class Retries(Schema):
    """`failed`: every attempt that was charged, also those whose charge a requeue has taken back."""

    max: int = 2
    used: int = 0
    backoff_s: float = 30.0
    failed: int = 0


GitRef = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^-\s]\S*$")]
GitCommit = Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")]


class Checkpoint(Schema):
    """Work in progress that outlives its holder: a commit, reachable as `ref` in the job's repository."""

    ref: GitRef
    commit: GitCommit
    at: Timestamp
    lease_epoch: int = 0  # the term that saved it; within a term, numbers only rise
    number: int = 0
    local: str | None = None  # the factory on whose machine alone it lies, when there is no remote


class WorkOrder(Schema):
    """What reaches the engine."""

    title: str
    engine: Engine
    profile: str | None = None
    repo: str | None = None
    cwd: str | None = None
    ref: str | None = None
    verify: tuple[str, ...] = ()
    timeout_s: float = TIMEOUT_DEFAULT_S
    idle_s: float | None = None  # without output for so long, a program of the term is ended
    network: bool = True  # without it: only the machine's own loopback, in a strict sandbox
    budget: Budget = Budget()
    yolo: bool = False

    def order(self) -> dict[str, Any]:
        """The fields of the work order alone, to make a Job of a Manifest, or a Grant of a Job."""
        return {name: getattr(self, name) for name in WorkOrder.model_fields}


class Request(WorkOrder):
    """The work order, and how the fleet is to go about it."""

    capabilities: tuple[str, ...] = ()
    priority: Priority = Priority.NORMAL
    deps: tuple[str, ...] = ()
    deps_mode: Literal["all", "any"] = "all"
    lock: str | None = None
    retries: Retries = Retries()
    review: int = 0
    ship: Literal["auto", "manual"] = "manual"

    def request(self) -> dict[str, Any]:
        """The fields of the request alone."""
        return {name: getattr(self, name) for name in Request.model_fields}


def path_within(root: str, path: str) -> str | None:
    """The rest of `path` below `root`, each `..` resolved; empty for the root itself. None: it leads elsewhere."""
    root, path = posixpath.normpath(root), posixpath.normpath(path)
    if path == root:
        return ""
    below = root.rstrip("/") + "/"
    return path.removeprefix(below) if path.startswith(below) else None
