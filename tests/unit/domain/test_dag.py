"""Only `shipped` satisfies a dep; a cycle among new jobs is found if and only if there is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.dag import finally_failed, first_cycle, waits_for
from schemas.job import Job
from tests.unit.domain.builders import situations

SITUATIONS = situations()
LOST = {"failed for good", "dead_letter"}


def named(*names: str) -> list[Job]:
    return [SITUATIONS[name].model_copy(update={"id": f"dep-{number}"}) for number, name in enumerate(names)]


@pytest.mark.parametrize("mode", ["all", "any"])
@pytest.mark.parametrize("name", SITUATIONS)
def test_one_dep_is_met_by_shipped_waited_for_while_it_may_ship_and_explained_when_it_cannot(
    name: str, mode: str
) -> None:
    reason = waits_for(mode, named(name))
    if name == "shipped":
        assert reason is None
        return
    assert reason is not None
    assert reason.kind == ("dep_failed" if name in LOST else "deps")
    assert "dep-0" in reason.text


@pytest.mark.parametrize("name", SITUATIONS)
def test_only_what_nothing_but_a_person_brings_back_has_finally_failed(name: str) -> None:
    assert finally_failed(SITUATIONS[name]) == (name in LOST)


@pytest.mark.parametrize("mode", ["all", "any"])
def test_no_deps_are_met(mode: str) -> None:
    assert waits_for(mode, []) is None


STATES = st.lists(st.sampled_from(["shipped", "building", *sorted(LOST)]), min_size=1, max_size=6)


@given(STATES)
def test_all_waits_for_each_and_is_hopeless_with_one_lost(names: list[str]) -> None:
    reason = waits_for("all", named(*names))
    assert (reason is None) == all(name == "shipped" for name in names)
    if reason is not None:
        assert (reason.kind == "dep_failed") == any(name in LOST for name in names)


@given(STATES)
def test_any_waits_for_the_first_and_is_hopeless_with_all_lost(names: list[str]) -> None:
    reason = waits_for("any", named(*names))
    assert (reason is None) == any(name == "shipped" for name in names)
    if reason is not None:
        assert (reason.kind == "dep_failed") == all(name in LOST for name in names)


@given(STATES, st.sampled_from(["all", "any"]))
def test_the_reason_names_exactly_the_deps_that_stand_in_the_way(names: list[str], mode: str) -> None:
    reason = waits_for(mode, named(*names))
    if reason is None:
        return
    wanted = [n for n, name in enumerate(names) if (name in LOST if reason.kind == "dep_failed" else name != "shipped")]
    assert [n for n in range(len(names)) if f"dep-{n}" in reason.text] == wanted


@st.composite
def graphs(draw: st.DrawFn) -> dict[int, list[int]]:
    size = draw(st.integers(0, 8))
    items = st.integers(0, max(0, size - 1))
    return {item: draw(st.lists(items, max_size=4)) for item in range(size)}


def reachable(needs: dict[int, list[int]], item: int) -> set[int]:
    """All that an item waits for, by steps until nothing is added."""
    found = set(needs[item])
    while more := {dep for one in found for dep in needs[one]} - found:
        found |= more
    return found


@given(graphs())
def test_a_cycle_is_found_if_and_only_if_an_item_waits_for_itself(needs: dict[int, list[int]]) -> None:
    assert bool(first_cycle(needs)) == any(item in reachable(needs, item) for item in needs)


@given(graphs())
def test_what_is_found_is_a_cycle_in_order(needs: dict[int, list[int]]) -> None:
    cycle = first_cycle(needs)
    assert len(set(cycle)) == len(cycle)
    for item, dep in zip(cycle, cycle[1:] + cycle[:1], strict=True):
        assert dep in needs[item]


def test_a_diamond_and_a_repeated_dep_are_no_cycle() -> None:
    assert first_cycle({0: [1, 2], 1: [3], 2: [3, 3], 3: []}) == []


def test_an_item_that_needs_itself_is_a_cycle() -> None:
    assert first_cycle({0: [0]}) == [0]


def test_a_long_chain_is_walked_without_recursion() -> None:
    chain = {item: [item + 1] for item in range(50_000)} | {50_000: []}
    assert first_cycle(chain) == []
    assert len(first_cycle(chain | {50_000: [0]})) == 50_001
