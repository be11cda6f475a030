"""The suite that people run before they trust the fleet: simulation, live chaos, the exhaustive walk, mutations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from chaos.checkers.registry import CHECKERS, violations
from chaos.edges.main import edges
from chaos.history import History
from chaos.live.main import live
from chaos.mutations import MUTATIONS
from chaos.seeds import Judged, Tally, each_judged, hunts, judged, told
from chaos.walk import walk_all
from chaos.world import run_seed

SEEDS_FILE = Path(__file__).with_name("seeds.txt")
REPLAY = "gigafactory chaos sim"
PROGRESS_EVERY = 50

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
app.command()(live)
app.command()(edges)
console = Console(soft_wrap=True, highlight=False)


def known_seeds() -> list[tuple[int, str]]:
    """Seeds that once failed, each with its story."""
    lines = [line for line in SEEDS_FILE.read_text().splitlines() if line and not line.startswith("#")]
    return [(int(number), story) for number, _, story in (line.partition("  ") for line in lines)]


@app.command()
def sim(
    seeds: Annotated[int, typer.Option(min=1, help="How many, beside those that once failed.")] = 500,
    first: Annotated[int, typer.Option(min=1, help="The first of them.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Processes side by side.")] = 2,
    seed: Annotated[int | None, typer.Option(help="Replay this one alone, with its whole history.")] = None,
    history: Annotated[Path | None, typer.Option(help="With --seed: write its history here, else print it.")] = None,
) -> None:
    """Simulated fleets on simulated time, one for each seed. Exit code 1 if a promise was broken."""
    if seed is not None:
        raise typer.Exit(_replayed(seed, history))
    tally = Tally()
    wanted = dict.fromkeys([known for known, _ in known_seeds()]) | dict.fromkeys(range(first, first + seeds))
    for one in each_judged(wanted, jobs):
        tally.take(one)
        _say_failed(one)
        if tally.seeds % PROGRESS_EVERY == 0:
            console.print(f"{tally.seeds} of {len(wanted)} seeds, {tally.seeds_per_s:.1f} a second", style="dim")
    _print_tally(tally)
    raise typer.Exit(int(bool(tally.failed)))


def _say_failed(one: Judged) -> None:
    if one.violations:
        for line in told(one, REPLAY):
            typer.echo(line)


def _replayed(seed: int, path: Path | None) -> int:
    ran = run_seed(seed)
    if path is not None:
        ran.history.save(path)
    else:
        for record in ran.history.records:
            typer.echo(record.to_line().decode())
    one = judged(seed)
    _say_failed(one)
    where = f", written to {path}" if path else ""
    typer.echo(f"seed {seed}: history {one.sha256}{where}; {len(one.violations)} violations")
    if one.sha256 != ran.history.sha256():
        typer.echo("the same seed gave two histories: the simulation is not deterministic")
        return 1
    return int(bool(one.violations))


def _print_tally(tally: Tally) -> None:
    table = Table("what", "count", title="Simulation")
    table.add_row("seeds", f"{tally.seeds:,}")
    table.add_row("operations", f"{tally.operations:,}")
    for name, count in sorted(tally.faults.items()):
        table.add_row(f"fault: {name}", f"{count:,}")
    table.add_row("virtual hours", f"{tally.virtual_s / 3600:,.1f}")
    table.add_row("violations", str(sum(len(one.violations) for one in tally.failed)))
    table.add_row("seeds/s", f"{tally.seeds_per_s:.1f}")
    console.print(table)


@app.command()
def mutations(
    seeds: Annotated[int, typer.Option(min=1, help="At most, for each.")] = 60,
    jobs: Annotated[int, typer.Option(min=1, help="Processes side by side.")] = 2,
) -> None:
    """Breaks the system on purpose, one way at a time. Exit code 1 if one way is not noticed."""
    table = Table("mutation", "promise", "seeds", "caught by", "s", title="Mutations")
    promise_of = {mutation.name: mutation.promise for mutation in MUTATIONS}
    survivors = []
    for hunted in hunts(seeds, jobs):
        caught = ", ".join(f"{name} {count}" for name, count in hunted.caught_by.most_common()) or "NOBODY"
        console.print(f"{hunted.name}: {'noticed' if hunted.caught_by else 'NOT NOTICED'}", style="dim")
        table.add_row(hunted.name, promise_of[hunted.name], str(hunted.seeds), caught, f"{hunted.seconds:.1f}")
        if not hunted.caught_by:
            survivors.append(hunted.name)
    console.print(table)
    typer.echo(f"mutations: {len(MUTATIONS) - len(survivors)}/{len(MUTATIONS)} caught" + _named(survivors))
    raise typer.Exit(int(bool(survivors)))


def _named(survivors: list[str]) -> str:
    return f"; not noticed: {', '.join(survivors)}" if survivors else ""


@app.command()
def walk(
    deeper: Annotated[bool, typer.Option("--deeper", help="More faults and operations: minutes.")] = False,
) -> None:
    """Every interleaving of small worlds, with every fate of every write."""
    raise typer.Exit(walk_all(deeper, typer.echo))


@app.command()
def check(path: Annotated[Path, typer.Argument(help="A recorded history.", exists=True, dir_okay=False)]) -> None:
    """Judges a recorded history anew."""
    try:
        recorded = History.load(path)
    except ValueError as error:
        typer.echo(f"chaos check: {error}", err=True)
        raise typer.Exit(2) from None
    found = violations(recorded)
    for violation in found:
        typer.echo(f"{violation.checker}: {violation.what}")
        for record in violation.shown_by:
            typer.echo(f"    {record.to_line().decode()}")
    typer.echo(f"{len(recorded.records)} records, {len(CHECKERS)} checkers, {len(found)} violations")
    raise typer.Exit(int(bool(found)))


def cli() -> None:
    app(prog_name="gigafactory chaos")
