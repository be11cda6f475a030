"""The shell engine: runs the shell blocks of the job's body, each under the shell that it names, until one fails."""

from __future__ import annotations

import itertools
import shlex
import shutil
from pathlib import Path

from factory.engines.port import Command, EngineRefusal
from schemas.messages import Grant
from schemas.projections import Insights
from schemas.shell_blocks import OpenBlock, shell_blocks
from schemas.work import Engine


class ShellEngine:
    name = Engine.SHELL

    def missing(self) -> str | None:
        return None if shutil.which("sh") else "no `sh` on PATH: install a POSIX shell"

    def command(self, grant: Grant, control: Path) -> Command:
        """Blocks that follow each other under one shell are one script: they share variables and the folder."""
        try:
            blocks = shell_blocks(grant.body_md)
        except OpenBlock as error:
            raise EngineRefusal(str(error)) from error
        if not blocks:
            raise EngineRefusal("the body has no ```sh block: there is nothing for the shell engine to run")
        calls = []
        for number, (shell, following) in enumerate(itertools.groupby(blocks, key=lambda block: block.shell), start=1):
            program = shutil.which(shell)
            if program is None:
                raise EngineRefusal(
                    f"the body has a ```{shell} block, and this machine has no {shell} on PATH", here=True
                )
            script = control / f"engine-{number}.{shell}"
            script.write_text("set -e\n" + "\n".join(block.text for block in following), encoding="utf-8")
            calls.append((program, str(script)))
        if len(calls) == 1:
            return Command(calls[0])
        script = control / "engine.sh"
        script.write_text("set -e\n" + "".join(f"{shlex.join(call)}\n" for call in calls), encoding="utf-8")
        return Command((shutil.which("sh") or "sh", str(script)))

    def insights(self, output_tail: str) -> Insights:
        return Insights()
