"""`gigafactory chaos edges`: the hands of a factory on real repositories, seed by seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from chaos.edges.checks import broken
from chaos.edges.mutations import MUTATIONS
from chaos.edges.plan import plan_of
from chaos.edges.run import Judged, each_judged, has_lfs, hunts
from chaos.edges.world import played, sandbox

console = Console(soft_wrap=True, highlight=False)
PROGRESS_EVERY = 10
SHOWN_MAX = 5  # of a seed


def edges(
    seeds: Annotated[int, typer.Option(min=1, help="How many.")] = 50,
    first: Annotated[int, typer.Option(min=1, help="The first of them.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Seeds side by side.")] = 2,
    seed: Annotated[int | None, typer.Option(help="Play this one alone.")] = None,
    keep: Annotated[Path | None, typer.Option(help="With --seed: leave its repositories and logs here.")] = None,
    mutations: Annotated[bool, typer.Option("--mutations", help="Break the hands instead, one way at a time.")] = False,
) -> None:
    """Real engines in real repositories under real faults. Exit code 1 if a promise was broken, or a break not seen."""
    if keep is not None and seed is None:
        raise typer.BadParameter("--keep goes with --seed: the others are removed when they are judged")
    if mutations:
        raise typer.Exit(_mutations(seeds, jobs))
    if seed is not None:
        raise typer.Exit(_one(seed, keep))
    tally: Counter[str] = Counter()
    failed, done, terms = 0, 0, 0
    for one in each_judged(range(first, first + seeds), jobs):
        done, terms = done + 1, terms + one.terms
        tally += Counter({f"fault: {name}": count for name, count in one.faults.items()})
        tally += Counter({f"deed: {name}": count for name, count in one.deeds.items()})
        failed += bool(one.broken)
        _say(one)
        if done % PROGRESS_EVERY == 0:
            console.print(f"{done} of {seeds} seeds", style="dim")
    table = Table("what", "count", title=f"Edges, sandbox: {sandbox()}")
    table.add_row("seeds", str(done))
    table.add_row("terms", str(terms))
    for name, count in sorted(tally.items()):
        table.add_row(name, str(count))
    table.add_row("seeds with violations", str(failed))
    console.print(table)
    raise typer.Exit(int(failed > 0))


def _say(one: Judged) -> None:
    for promise, what in one.broken[:SHOWN_MAX]:
        typer.echo(f"seed {one.seed}: promise {promise}: {what}")
    if one.broken:
        typer.echo(f"    replay: gigafactory chaos edges --seed {one.seed} --keep FOLDER")


def _one(seed: int, keep: Path | None) -> int:
    plan = plan_of(seed, has_lfs=has_lfs())
    for job in plan.jobs:
        typer.echo(f"{job.name}: {', '.join(deed.name for deed in job.deeds)}; verify {job.verify}; fails {job.fails}")
    one = played(plan, keep=keep.resolve() if keep is not None else None)
    found = broken(one)
    for promise, what in found:
        typer.echo(f"promise {promise}: {what}")
    typer.echo(f"seed {seed}: {len(found)} violations; its repositories and logs are in {one.folder}")
    return int(bool(found))


def _mutations(seeds: int, jobs: int) -> int:
    table = Table("mutation", "promise", "seeds", "seen as", "s", title="Edges, mutations")
    promises = {one.name: one.promise for one in MUTATIONS}
    survivors = []
    for hunted in hunts(promises, seeds, jobs):
        seen = ", ".join(
            f"promise {name} {count}" for name, count in Counter(one.promise for one in hunted.caught).items()
        )
        console.print(f"{hunted.name}: {'seen' if seen else 'NOT SEEN'}", style="dim")
        table.add_row(hunted.name, promises[hunted.name], str(hunted.seeds), seen or "NOBODY", f"{hunted.seconds:.1f}")
        survivors += [] if seen else [hunted.name]
    console.print(table)
    typer.echo(f"mutations: {len(MUTATIONS) - len(survivors)}/{len(MUTATIONS)} seen; not seen: {survivors or 'none'}")
    return int(bool(survivors))
