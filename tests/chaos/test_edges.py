"""The edges, proven as the centre is: real engines in real repositories, and each way to break the hands seen."""

from __future__ import annotations

import pytest

from chaos.edges.deeds import DEEDS, read
from chaos.edges.mutations import MUTATIONS
from chaos.edges.plan import plan_of
from chaos.edges.run import has_lfs, hunt, judged
from chaos.edges.world import sandbox
from factory.surroundings.sandbox import Mode

SEEDS = 50
IN_A_TEST = 5
MUTATION_SEEDS = 25
BY_A_SANDBOX = {"nothing-hidden", "no-sandbox"}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(1, SEEDS + 1, IN_A_TEST))
def test_nothing_is_lost_nobody_meets_another_and_nobody_is_blamed_wrongly(first: int) -> None:
    found = [(seed, judged(seed).broken) for seed in range(first, first + IN_A_TEST)]
    assert {seed: broken for seed, broken in found if broken} == {}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [mutation.name for mutation in MUTATIONS])
def test_hands_that_are_broken_are_noticed(name: str) -> None:
    if name in BY_A_SANDBOX and sandbox() is Mode.OFF:
        pytest.skip("there is no sandbox on this machine")
    assert hunt(name, MUTATION_SEEDS).caught, f"{name} was not seen in {MUTATION_SEEDS} seeds"


def test_a_seed_is_always_the_same_plan_and_seeds_do_every_deed() -> None:
    assert plan_of(7, has_lfs=True) == plan_of(7, has_lfs=True)
    done = {deed.name for seed in range(300) for job in plan_of(seed, has_lfs=True).jobs for deed in job.deeds}
    assert done == {deed.name for deed in DEEDS}


def test_what_a_machine_lacks_is_asked_of_no_job() -> None:
    needs = {deed.needs for seed in range(200) for job in plan_of(seed, has_lfs=False).jobs for deed in job.deeds}
    assert "lfs" not in needs
    assert isinstance(has_lfs(), bool)


def test_deeds_are_read_with_what_they_say_of_themselves() -> None:
    (one, other) = read("# words\n\n#: first; needs=push; tells=gone; tells=lost; last\ntrue\n\n#: second\nfalse\n")
    assert (one.name, one.needs, one.tells, one.last, one.script) == ("first", "push", ("gone", "lost"), True, "true")
    assert (other.name, other.needs, other.tells, other.last, other.script) == ("second", "", (), False, "false")
