"""`gigafactory up`: starts the one-machine fleet and stays until Ctrl-C."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from bus.server import BrokerError
from deploy.local.fleet import Child, LocalFleet, LocalFleetError, LocalSettings
from factory.detect import detected_here
from factory.surroundings.sandbox import Mode, chosen
from factory.surroundings.variables import check_pattern
from factory.workspace.source import named_folder

DEFAULT_DATA = Path(".gigafactory")  # where the command line looks by itself

RESTART_PAUSE_S = 2.0
LOOK_S = 0.5
EXIT_FENCED = 78

app = typer.Typer(add_completion=False)


class _Asked:
    def __init__(self) -> None:
        self.to_stop = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.to_stop = True


def watch(fleet: LocalFleet, asked: _Asked) -> None:
    """Starts again what ends by itself, as often as it takes, and says so; a fenced factory stays down."""
    given_up: set[str] = set()
    while not asked.to_stop:
        if not fleet.broker.running:
            typer.echo("nats-server ended: starting it again (REST goes on meanwhile)")
            with _tried_again("nats-server"):
                fleet.broker.start()
        for child in fleet.children():
            code = child.exit_code
            if code is None or child.name in given_up:
                continue
            typer.echo(f"{child.name} ended with {code}: {child.last_words()}")
            if code == EXIT_FENCED:
                given_up.add(child.name)
                continue
            time.sleep(RESTART_PAUSE_S)
            with _tried_again(child.name):
                _restart(child)
        time.sleep(LOOK_S)


@contextmanager
def _tried_again(name: str) -> Iterator[None]:
    """What cannot start now, for want of its port or of memory, may at a later look: the rest of the fleet goes on."""
    try:
        yield
    except (BrokerError, OSError) as error:
        typer.echo(f"{name} does not start, and is tried again: {error}")
        time.sleep(RESTART_PAUSE_S)


def _restart(child: Child) -> None:
    child.start()
    typer.echo(f"{child.name} runs again, as process {child.pid}")


def _submit_command(fleet: LocalFleet, data: Path) -> str:
    """As it works in the folder where this was started: the command line looks into the default folder by itself."""
    if data == DEFAULT_DATA:
        return "gigafactory submit JOB.md"
    where = ("--url", fleet.url, "--token-file", str(fleet.secrets.operator_token_file), "--product", fleet.product_id)
    return shlex.join(["gigafactory", *where, "submit", "JOB.md"])


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="Where everything is kept; a second start goes on there.")] = DEFAULT_DATA,
    port: Annotated[int, typer.Option(help="Port of the REST API on 127.0.0.1.")] = 8080,
    bus_port: Annotated[int, typer.Option(help="Port of nats-server on 127.0.0.1.")] = 4222,
    lease_ttl: Annotated[float, typer.Option(help="Lease TTL in seconds.")] = 60.0,
    workspace: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="The folder PATH for jobs with `cwd: NAME`; repeat it."),
    ] = None,
    sandbox: Annotated[
        Mode | None, typer.Option(help="veil, strict or off (see `gigafactory factory --help`).")
    ] = None,
    pass_env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A variable that jobs get, or its beginning and a *; repeat it."),
    ] = None,
) -> None:
    """Starts nats-server, a coordinator on SQLite and two factories; Ctrl-C ends all of it."""
    try:
        mode, no_sandbox = chosen(sandbox)
        folders = [named_folder(text) for text in workspace or ()]
        settings = LocalSettings(
            data.resolve(),
            port=port,
            bus_port=bus_port,
            lease_ttl_s=lease_ttl,
            workspaces=tuple(f"{name}={path}" for name, path in folders),
            sandbox=mode,
            pass_env=tuple(check_pattern(pattern) for pattern in pass_env or ()),
            entitled=detected_here(),
        )
        fleet = LocalFleet(settings, typer.echo)
        asked = _Asked()
        fleet.start()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    except (LocalFleetError, OSError) as error:
        typer.echo(f"gigafactory up: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"the fleet is up: {fleet.url}")
    typer.echo(f"operator token:   {fleet.secrets.operator_token_file}")
    typer.echo(f"logs:             {data.resolve() / 'log'}")
    typer.echo(f"sandbox:          {mode}{f' ({no_sandbox}): a job can read all that you can' if no_sandbox else ''}")
    typer.echo(f"try:              {_submit_command(fleet, data)}")
    typer.echo("Ctrl-C ends the fleet")
    try:
        watch(fleet, asked)
    finally:
        typer.echo("ending: factories drain first")
        fleet.stop()
        typer.echo("ended; the next `up` on this directory goes on from here")


def cli() -> None:
    app(prog_name="gigafactory up")
