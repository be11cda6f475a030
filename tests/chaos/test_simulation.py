"""The simulated fleet keeps its promises whatever the seed, plays the same seed the same way, and tells what broke."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Any, TypeVar

import pytest

from chaos.main import known_seeds
from chaos.mutations import MUTATIONS
from chaos.plan import FAULTS, plan_of
from chaos.seeds import Tally, hunt, judged, told
from chaos.world import run_seed

T = TypeVar("T")

SEEDS = 500
SEEDS_A_TEST = 10
SEEDS_TO_CATCH = 60
PROMISES = {str(number) for number in range(1, 16)} - {"12"} | {"17"}  # 12: there is no network to be invited to


def mostly_slow(values: Iterable[T], every: int) -> list[Any]:
    """Of each `every` values the first is for a developer's loop too; the others are left to the whole run."""
    return [
        pytest.param(value, marks=[] if place % every == 0 else [pytest.mark.slow])
        for place, value in enumerate(values)
    ]


def _broken(seeds: list[int]) -> list[str]:
    return [line for seed in seeds for one in [judged(seed)] if one.violations for line in told(one, "replay")]


@pytest.mark.parametrize("first", mostly_slow(range(1, SEEDS + 1, SEEDS_A_TEST), every=25))
def test_no_promise_is_broken_whatever_the_seed(first: int) -> None:
    assert _broken(list(range(first, first + SEEDS_A_TEST))) == []


@pytest.mark.parametrize(("seed", "story"), known_seeds())
def test_a_seed_that_once_failed_does_not_fail_again(seed: int, story: str) -> None:
    assert _broken([seed]) == []
    assert story


@pytest.mark.parametrize("mutation", mostly_slow([mutation.name for mutation in MUTATIONS], every=6))
def test_a_system_that_is_broken_on_purpose_is_noticed(mutation: str) -> None:
    assert hunt(mutation, SEEDS_TO_CATCH).caught_by


def test_each_promise_is_broken_by_a_mutation() -> None:
    assert {mutation.promise for mutation in MUTATIONS} - {"truth"} == PROMISES
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 15


def test_a_seed_is_played_the_same_way_each_time_also_by_another_process() -> None:
    """In seed 166 people resume what its budgets paused, and a factory is killed while it runs two engines."""
    here = [run_seed(seed).history.sha256() for seed in (7, 166)]
    assert [run_seed(seed).history.sha256() for seed in (7, 166)] == here
    program = "from chaos.world import run_seed; print(*(run_seed(seed).history.sha256() for seed in (7, 166)))"
    for hash_seed in ("1", "2"):
        environ = {**os.environ, "PYTHONHASHSEED": hash_seed}
        there = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
        assert there.stdout.split() == here
    assert run_seed(8).history.sha256() != here[0]


def test_every_kind_of_fault_comes_up_and_is_over_before_the_calm() -> None:
    plans = [plan_of(seed) for seed in range(1, 200)]
    drawn = {fault.name for plan in plans for fault in plan.faults}
    assert drawn == set(FAULTS)
    assert {len(plan.coordinators) for plan in plans} == {1, 2, 3}
    assert min(len(plan.factories) for plan in plans) >= 3
    assert max(len(plan.factories) for plan in plans) >= 12
    tally = Tally()
    for seed in itertools.count(1):
        tally.take(judged(seed))
        if len(tally.faults) >= len(set(FAULTS)) - 2:
            break
    assert tally.operations > 100 * tally.seeds


def test_what_broke_is_told_with_the_records_that_show_it_and_how_to_see_more() -> None:
    racy = next(mutation for mutation in MUTATIONS if mutation.name == "racy-store")
    with racy.on():
        one = judged(1)
    lines = list(told(one, "gigafactory chaos sim"))
    assert lines[0].startswith("seed 1: ")
    assert any(line.startswith('    {"') for line in lines)
    assert lines[-1] == "    replay: gigafactory chaos sim --seed 1"
