"""Many seeds side by side: played, judged, forgotten."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from typing import NamedTuple

from chaos.edges.checks import Broken, broken
from chaos.edges.plan import plan_of
from chaos.edges.world import forget, played

FAVOURING = 40  # seeds at most for a breakage


class Judged(NamedTuple):
    """`deeds`: how often each was done."""

    seed: int
    broken: list[Broken]
    faults: Counter[str]
    deeds: Counter[str]
    terms: int
    seconds: float


def has_lfs() -> bool:
    return shutil.which("git-lfs") is not None


def judged(seed: int, mutation: str | None = None, favours: tuple[str, ...] = ()) -> Judged:
    plan = plan_of(seed, has_lfs=has_lfs(), favours=favours)
    one = played(plan, mutation)
    try:
        found = broken(one)
        deeds = Counter(deed.name for job in plan.jobs for deed in job.deeds)
        terms = sum(one.what == "begun" for one in one.said)
        return Judged(seed, found, one.faults, deeds, terms, one.seconds)
    finally:
        forget(one)


def each_judged(seeds: Iterable[int], jobs: int) -> Iterator[Judged]:
    """In the order in which they end, by so many processes."""
    if jobs == 1:
        yield from map(judged, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        waiting = [pool.submit(judged, seed) for seed in seeds]
        for done in as_completed(waiting):
            yield done.result()


class Hunted(NamedTuple):
    """`caught`: what was found broken at the first seed that showed it; empty where none did."""

    name: str
    seeds: int
    caught: list[Broken]
    seconds: float


def hunt(name: str, seeds_max: int) -> Hunted:
    """The hands broken in one way, seed by seed, until a check sees it."""
    from chaos.edges.mutations import MUTATIONS

    mutation = next(one for one in MUTATIONS if one.name == name)
    began = time.monotonic()
    for seed in range(1, seeds_max + 1):
        found = judged(seed, name, mutation.favours).broken
        if found:
            return Hunted(name, seed, found, time.monotonic() - began)
    return Hunted(name, seeds_max, [], time.monotonic() - began)


def hunts(names: Iterable[str], seeds_max: int, jobs: int) -> Iterator[Hunted]:
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(partial(hunt, seeds_max=seeds_max), names)
