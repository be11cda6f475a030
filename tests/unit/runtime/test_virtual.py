"""Virtual time: waits cost nothing, order is that of the deadlines, and a world that stands still says so."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.clock import EPOCH, LoopClock
from runtime.virtual import Deadlock, run_virtual

DELAYS = st.lists(st.integers(0, 500), min_size=1, max_size=20)


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def slept(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return now_s()


def test_three_months_pass_at_once_and_exactly() -> None:
    began = time.monotonic()
    assert run_virtual(slept(90 * 86400)) == 90 * 86400
    assert time.monotonic() - began < 10


@pytest.mark.timeout(5)
def test_a_year_passes_too() -> None:
    """Beyond 2**24 s one nanosecond, asyncio's clock resolution, is less than what a float of seconds can show."""
    assert run_virtual(slept(365 * 86400)) == 365 * 86400


def test_time_begins_at_zero_and_stands_while_there_is_work() -> None:
    async def main() -> list[float]:
        seen = [now_s()]
        for _ in range(100):
            await asyncio.sleep(0)
        return [*seen, now_s()]

    assert run_virtual(main()) == [0.0, 0.0]


@given(DELAYS)
def test_sleepers_wake_in_the_order_of_their_deadlines_each_at_its_own(delays: list[int]) -> None:
    woken: list[tuple[float, int]] = []

    async def sleeper(delay: int) -> None:
        await asyncio.sleep(delay)
        woken.append((now_s(), delay))

    async def main() -> None:
        await asyncio.gather(*(sleeper(delay) for delay in delays))

    run_virtual(main())
    assert [delay for _, delay in woken] == sorted(delays)
    assert [at for at, _ in woken] == pytest.approx([delay for _, delay in woken])


@given(DELAYS)
def test_the_same_program_takes_the_same_course(delays: list[int]) -> None:
    def course() -> list[tuple[int, float]]:
        told: list[tuple[int, float]] = []

        async def one(number: int, delay: int) -> None:
            for turn in range(3):
                await asyncio.sleep(delay / 7 * turn)
                told.append((number, now_s()))

        async def main() -> None:
            await asyncio.gather(*(one(number, delay) for number, delay in enumerate(delays)))

        run_virtual(main())
        return told

    assert course() == course()


def test_a_timeout_fires_in_virtual_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        return now_s()

    assert run_virtual(main()) == 30


def test_a_world_in_which_everybody_waits_for_ever_says_so() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="no timer"):
        run_virtual(main())


def test_what_was_left_running_is_cancelled_and_an_error_comes_through() -> None:
    ended: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(10**6)
        finally:
            ended.append("cancelled")

    async def main() -> None:
        task = asyncio.create_task(background())
        await asyncio.sleep(1)
        assert not task.done()
        raise RuntimeError("the test's own")

    with pytest.raises(RuntimeError, match="own"):
        run_virtual(main())
    assert ended == ["cancelled"]


def test_both_clocks_follow_the_loop_and_skew_moves_wall_time_alone() -> None:
    async def main() -> None:
        clock, wrong = LoopClock(), LoopClock(skew_s=-90)
        await asyncio.sleep(5)
        assert (clock.now(), clock.boot_s()) == (EPOCH + timedelta(seconds=5), 5.0)
        assert (wrong.now(), wrong.boot_s()) == (EPOCH - timedelta(seconds=85), 5.0)

    run_virtual(main())
    assert EPOCH.tzinfo is not None
