"""All worlds, one row each."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from chaos.walk.search import Walked, walk
from chaos.walk.worlds import WORLDS, SmallWorld

TOLD_MAX = 3  # violations told of each world: the first are the shortest


def walk_all(deeper: bool, say: Callable[[str], None], worlds: Iterable[SmallWorld] = WORLDS) -> int:
    """Walks them one by one and says a row of each, with what it found; 1 if any breaks a promise."""
    say(f"{'world':<60} {'faults':>6} {'paths':>12} {'states':>8} {'ends':>6} {'violations':>10} {'seconds':>8}")
    broken = 0
    for world in worlds:
        if world.only_deeper and not deeper:
            continue
        walked = walk(world, faults=world.deeper if deeper else world.faults)
        broken += walked.violations
        say(row(walked))
        for found in walked.found[:TOLD_MAX]:
            say(str(found))
    return int(broken > 0)


def row(walked: Walked) -> str:
    cut = "  CUT: not all was walked" if walked.cut else ""
    paths = f"{walked.paths:12}" if walked.paths < 10**12 else f"{walked.paths:12.1e}"
    return (
        f"{walked.world[:60]:<60} {walked.faults:6} {paths} {walked.states:8} {walked.ends:6}"
        f" {walked.violations:10} {walked.seconds:8.2f}{cut}"
    )
