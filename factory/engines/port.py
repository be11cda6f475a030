"""The one port to an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from schemas.messages import Grant
from schemas.projections import Insights
from schemas.work import Engine


class EngineRefusal(Exception):
    """The engine cannot run this grant, in a sentence. `here`: on this machine; else nowhere."""

    def __init__(self, sentence: str, *, here: bool = False) -> None:
        super().__init__(sentence)
        self.here = here


@dataclass(frozen=True)
class Command:
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


class EngineAdapter(Protocol):
    @property
    def name(self) -> Engine: ...

    def missing(self) -> str | None:
        """What is not installed, in a sentence that says what to do; None when the engine can run here."""

    def command(self, grant: Grant, control: Path) -> Command:
        """What to run in the worktree. `control`: a folder for what the engine is to read. Raises EngineRefusal."""

    def insights(self, output_tail: str) -> Insights: ...
