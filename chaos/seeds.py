"""Many seeds side by side: run, judged, counted, and told of."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from chaos.checkers.registry import violations
from chaos.history import Violation
from chaos.mutations import MUTATIONS
from chaos.plan import plan_of
from chaos.world import run_plan, run_seed

CONVERGES_BROKEN_S = 240.0  # a broken system that never comes to rest is not waited for as long
SHOWN_MAX = 12  # records of a violation that are printed


class Judged(NamedTuple):
    """What is kept of one seed's run; the history itself is had again by running it again."""

    seed: int
    sha256: str
    operations: int
    virtual_s: float
    faults: Counter[str]
    violations: list[Violation]


def judged(seed: int) -> Judged:
    ran = run_seed(seed)
    return Judged(seed, ran.history.sha256(), ran.operations, ran.virtual_s, ran.faults, violations(ran.history))


def each_judged(seeds: Iterable[int], jobs: int) -> Iterator[Judged]:
    """In the order in which they end, by so many processes."""
    if jobs == 1:
        yield from map(judged, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(judged, seeds, chunksize=4)


@dataclass
class Tally:
    seeds: int = 0
    operations: int = 0
    virtual_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    failed: list[Judged] = field(default_factory=list)
    began_s: float = field(default_factory=time.monotonic)

    def take(self, one: Judged) -> None:
        self.seeds += 1
        self.operations += one.operations
        self.virtual_s += one.virtual_s
        self.faults += one.faults
        if one.violations:
            self.failed.append(one)

    @property
    def seeds_per_s(self) -> float:
        return self.seeds / max(1e-9, time.monotonic() - self.began_s)


def told(one: Judged, replay: str) -> Iterator[str]:
    """What was violated, the slice of history that shows it, and how to see all of it."""
    for violation in one.violations:
        yield f"seed {one.seed}: {violation.checker}: {violation.what}"
        for record in violation.shown_by[:SHOWN_MAX]:
            yield f"    {record.to_line().decode()}"
    yield f"    replay: {replay} --seed {one.seed}"


class Hunted(NamedTuple):
    """`caught_by`: the checkers that saw it, and how often, at the first seed that showed it; empty if none did."""

    name: str
    seeds: int
    caught_by: Counter[str]
    seconds: float


def hunt(name: str, seeds_max: int) -> Hunted:
    """Runs the system broken by the mutation of that name, seed by seed, until a checker sees it."""
    mutation = next(one for one in MUTATIONS if one.name == name)
    began_s = time.monotonic()
    found: Counter[str] = Counter()
    seed = 0
    while not found and seed < seeds_max:
        seed += 1
        with mutation.on():
            ran = run_plan(plan_of(seed, mutation.favours), CONVERGES_BROKEN_S)
        found = Counter(violation.checker for violation in violations(ran.history))
    return Hunted(name, seed, found, time.monotonic() - began_s)


def hunts(seeds_max: int, jobs: int) -> Iterator[Hunted]:
    """Every mutation, in their order."""
    work = partial(hunt, seeds_max=seeds_max)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(work, [mutation.name for mutation in MUTATIONS])
