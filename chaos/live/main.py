"""`gigafactory chaos live`: real processes on loopback, broken by real means, judged by the same checkers."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bus.server import BrokerError
from chaos.live.cosmos_server import CosmosServerError
from chaos.live.processes import LiveError
from chaos.live.report import Judged, judged, tabled, told
from chaos.live.run import Played, Scenario, played
from chaos.live.scenarios import SCENARIOS

KEPT = Path(".chaos")
ALL = "all"

WIDTH = 120  # of tables, where it is no terminal that says its own

console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)


def names() -> list[str]:
    """What may be asked for; a name stands for its scenario on each store that it is for."""
    return [*dict.fromkeys(scenario.family for scenario in SCENARIOS), ALL]


def live(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(names())}.")],
    seed: Annotated[int, typer.Option(help="Of the work, and of who is hit.")] = 1,
    keep: Annotated[Path, typer.Option(help="Where histories and logs are kept, replacing those of before.")] = KEPT,
) -> None:
    """Breaks a fleet of real processes. Exit code 1 if a promise was broken or a job lost, 2 if it could not be run."""
    wanted = [scenario for scenario in SCENARIOS if name in (ALL, scenario.family)]
    if not wanted:
        raise typer.BadParameter(f"there is no scenario {name!r}; there are {', '.join(names())}")
    runs: list[Judged] = []
    for scenario in wanted:
        try:
            one = _run(scenario, seed, keep)
        except (LiveError, BrokerError, CosmosServerError) as error:
            typer.echo(f"chaos live: {scenario.name}: {error}", err=True)
            raise typer.Exit(2) from None
        for line in told(one):
            typer.echo(line)
        runs.append(one)
    for table in tabled(runs):
        console.print(table)
    raise typer.Exit(int(not all(one.good for one in runs)))


def _run(scenario: Scenario, seed: int, keep: Path) -> Judged:
    kept = keep / scenario.slug
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="gigafactory-chaos-", ignore_cleanup_errors=True) as folder:
        root = logging.getLogger()
        handler = logging.FileHandler(kept / "chaos.log")
        root.addHandler(handler)
        try:
            done = asyncio.run(_until_told(scenario, Path(folder) / "fleet", seed))
        finally:
            root.removeHandler(handler)
            handler.close()
            shutil.copytree(Path(folder) / "fleet" / "log", kept / "log", dirs_exist_ok=True)
    return judged(done, kept / "history.jsonl")


async def _until_told(scenario: Scenario, folder: Path, seed: int) -> Played:
    """A TERM ends it in order, like a Ctrl-C: no process is left behind."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await played(scenario, folder, seed, lambda line: typer.echo(f"{time.strftime('%X')} {line}"))
