"""The shell engine: runs the `sh` blocks of the job's body, one after another, until one fails."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from factory.engines.port import Command, EngineRefusal
from schemas.messages import Grant
from schemas.projections import Insights
from schemas.work import Engine

_block = re.compile(r"^```(?:sh|bash|shell)[ \t]*\r?\n(.*?)^```[ \t]*\r?$", re.MULTILINE | re.DOTALL)


def shell_blocks(body: str) -> list[str]:
    return [match.group(1).replace("\r\n", "\n") for match in _block.finditer(body)]


class ShellEngine:
    name = Engine.SHELL

    def missing(self) -> str | None:
        return None if shutil.which("sh") else "no `sh` on PATH: install a POSIX shell"

    def command(self, grant: Grant, scratch: Path) -> Command:
        blocks = shell_blocks(grant.body_md)
        if not blocks:
            raise EngineRefusal("the body has no ```sh block: there is nothing for the shell engine to run")
        script = scratch / "engine.sh"
        script.write_text("set -e\n" + "\n".join(blocks), encoding="utf-8")
        return Command((shutil.which("sh") or "sh", str(script)))

    def insights(self, output_tail: str) -> Insights:
        return Insights()
