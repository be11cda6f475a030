"""A service runs at its own pace, sooner when woken; a failure costs one interval; only `stop` ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import pytest

from runtime.clock import EPOCH, LoopClock
from runtime.loop import Service, left_to_the_next_run
from tests.support.virtual import in_virtual_time

INTERVAL_S = 5.0


class Diary:
    """A `run_once` that notes when it ran, and does what `during` says."""

    def __init__(self, during: Callable[[int], object] = lambda number: None, takes_s: float = 0.0) -> None:
        self.ran_s: list[float] = []
        self._during = during
        self._takes_s = takes_s

    async def run_once(self, now: datetime) -> None:
        self.ran_s.append((now - EPOCH).total_seconds())
        await asyncio.sleep(self._takes_s)
        self._during(len(self.ran_s))

    def service(self) -> Service:
        return Service("diary", self.run_once, INTERVAL_S, LoopClock())


async def lived(service: Service, until_s: float) -> None:
    service.start()
    await asyncio.sleep(until_s)
    await service.stop()


@in_virtual_time
async def test_it_runs_at_once_and_then_once_in_each_interval() -> None:
    diary = Diary()
    await lived(diary.service(), 16)
    assert diary.ran_s == [0, 5, 10, 15]


@in_virtual_time
async def test_a_wake_up_makes_it_run_now_and_the_interval_begins_anew() -> None:
    diary = Diary()
    service = diary.service()
    asyncio.get_running_loop().call_later(2, service.wake)
    await lived(service, 8)
    assert diary.ran_s == [0, 2, 7]


@in_virtual_time
async def test_a_wake_up_during_a_run_is_not_lost() -> None:
    diary = Diary(takes_s=1)
    service = diary.service()
    asyncio.get_running_loop().call_later(0.5, service.wake)
    await lived(service, 5)
    assert diary.ran_s == [0, 1]


@in_virtual_time
async def test_many_wake_ups_during_a_run_are_one() -> None:
    diary = Diary(takes_s=1)
    service = diary.service()
    for at_s in (0.2, 0.4, 0.6):
        asyncio.get_running_loop().call_later(at_s, service.wake)
    await lived(service, 5)
    assert diary.ran_s == [0, 1]


@in_virtual_time
async def test_a_failing_run_is_logged_and_repeated_after_the_interval(caplog: pytest.LogCaptureFixture) -> None:
    def fails(number: int) -> None:
        if number < 3:
            raise ValueError(f"run {number}")

    diary = Diary(fails)
    await lived(diary.service(), 11)
    assert diary.ran_s == [0, 5, 10]
    assert [record.message for record in caplog.records] == ["diary failed; it runs again in 5.0 s"] * 2
    assert all(record.exc_info for record in caplog.records)


def test_one_bad_item_is_logged_and_left_to_the_next_run(caplog: pytest.LogCaptureFixture) -> None:
    done = []
    for item in (1, 2, 3):
        with left_to_the_next_run(f"item {item}"):
            if item == 2:
                raise ValueError(item)
            done.append(item)
    assert done == [1, 3]
    assert [record.message for record in caplog.records] == ["item 2 is left to the next run"]


def test_being_cancelled_is_left_to_nobody() -> None:
    with pytest.raises(asyncio.CancelledError), left_to_the_next_run("the item at hand"):
        raise asyncio.CancelledError


@in_virtual_time
async def test_a_run_that_times_out_within_itself_does_not_end_the_service() -> None:
    diary = Diary()

    async def times_out(now: datetime) -> None:
        await diary.run_once(now)
        async with asyncio.timeout(1):
            await asyncio.sleep(60)

    await lived(Service("slow", times_out, INTERVAL_S, LoopClock()), 8)
    assert diary.ran_s == [0, 6]


@in_virtual_time
async def test_stop_ends_it_in_the_middle_of_a_run_and_twice_is_once() -> None:
    diary = Diary(takes_s=100)
    service = diary.service()
    await lived(service, 1)
    await service.stop()
    await asyncio.sleep(1000)
    assert diary.ran_s == [0]
    assert asyncio.get_running_loop().time() == 1001


@in_virtual_time
async def test_it_can_be_started_again_but_not_twice() -> None:
    diary = Diary()
    service = diary.service()
    await lived(service, 1)
    service.start()
    with pytest.raises(AssertionError, match="is running"):
        service.start()
    await asyncio.sleep(1)
    await service.stop()
    assert diary.ran_s == [0, 1]


@in_virtual_time
async def test_a_service_that_was_never_started_can_be_woken_and_stopped() -> None:
    diary = Diary()
    service = diary.service()
    service.wake()
    await service.stop()
    assert diary.ran_s == []


@in_virtual_time
async def test_whoever_is_cancelled_while_stopping_it_is_told() -> None:
    """`stop` swallows the service's own cancellation, and must not swallow its caller's."""

    async def clings(now: datetime) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(10)

    service = Service("clinging", clings, INTERVAL_S, LoopClock())
    service.start()
    await asyncio.sleep(1)
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(1)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert stopping.cancelled()
