"""Commands that become a service of their own: started as a program, never imported."""

from __future__ import annotations

import os
import subprocess
import sys

import typer

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def become(module: str, arguments: list[str]) -> None:
    argv = [sys.executable, "-m", module, *arguments]
    if sys.platform == "win32":
        raise typer.Exit(subprocess.run(argv, check=False).returncode)
    os.execv(sys.executable, argv)


def add_services(app: typer.Typer) -> None:
    @app.command(context_settings=PASS_ON)
    def up(context: typer.Context) -> None:
        """Start the one-machine fleet and stay (see `up --help`)."""
        become("deploy.local", context.args)

    @app.command(context_settings=PASS_ON)
    def coordinator(context: typer.Context) -> None:
        """Run one coordinator (see `coordinator --help`)."""
        become("coordinator", context.args)

    @app.command(context_settings=PASS_ON)
    def factory(context: typer.Context) -> None:
        """Run one factory (see `factory --help`)."""
        become("factory", context.args)

    @app.command(context_settings=PASS_ON)
    def chaos(context: typer.Context) -> None:
        """Break a fleet on purpose and judge what happened (see `chaos --help`)."""
        become("chaos", context.args)
