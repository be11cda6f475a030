"""Contenders for one key take turns, first come first served; other keys are not held up; nothing is left behind."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.queues import KeyedQueues
from runtime.virtual import run_virtual
from tests.support.virtual import in_virtual_time


@in_virtual_time
async def test_turns_are_taken_one_at_a_time_in_the_order_of_asking() -> None:
    queues, told = KeyedQueues(), []

    async def contender(number: int) -> None:
        async with queues.turn("job"):
            told.append(("in", number))
            await asyncio.sleep(1)
            told.append(("out", number))

    await asyncio.gather(*(contender(number) for number in range(5)))
    assert told == [(way, number) for number in range(5) for way in ("in", "out")]
    assert asyncio.get_running_loop().time() == 5


@in_virtual_time
async def test_other_keys_do_not_wait() -> None:
    queues = KeyedQueues()

    async def contender(key: str) -> None:
        async with queues.turn(key):
            await asyncio.sleep(1)

    await asyncio.gather(*(contender(f"job-{number}") for number in range(50)))
    assert asyncio.get_running_loop().time() == 1


@in_virtual_time
async def test_a_turn_that_fails_is_given_on() -> None:
    queues = KeyedQueues()
    with pytest.raises(ValueError, match="mine"):
        async with queues.turn("job"):
            raise ValueError("mine")
    async with asyncio.timeout(1), queues.turn("job"):
        assert asyncio.get_running_loop().time() == 0


@in_virtual_time
async def test_who_stops_waiting_neither_takes_a_turn_nor_holds_up_the_next() -> None:
    queues, told = KeyedQueues(), []

    async def contender(number: int) -> None:
        async with queues.turn("job"):
            told.append(number)
            await asyncio.sleep(1)

    tasks = [asyncio.create_task(contender(number)) for number in range(4)]
    await asyncio.sleep(0.5)
    tasks[1].cancel()
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert told == [0, 2, 3]
    assert asyncio.get_running_loop().time() == 2.5


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5), st.integers(0, 5) | st.none()), max_size=12))
def test_whoever_comes_and_goes_at_most_one_is_in_and_at_last_no_key_is_kept(
    plans: list[tuple[str, int, int | None]],
) -> None:
    """Each comes at some moment, stays a second, and may be cancelled at some moment."""
    queues, inside = KeyedQueues(), {"a": 0, "b": 0}

    async def contender(key: str, comes: int) -> None:
        await asyncio.sleep(comes)
        async with queues.turn(key):
            inside[key] += 1
            assert inside[key] == 1
            try:
                await asyncio.sleep(1)
            finally:
                inside[key] -= 1

    async def main() -> list[object]:
        tasks = [asyncio.create_task(contender(key, comes)) for key, comes, _ in plans]
        for task, (_, _, cancelled) in zip(tasks, plans, strict=True):
            if cancelled is not None:
                asyncio.get_running_loop().call_later(cancelled + 0.5, task.cancel)
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = run_virtual(main())
    assert all(one is None or isinstance(one, asyncio.CancelledError) for one in outcomes)
    assert queues._locks == {}
