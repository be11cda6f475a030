"""A crowd that asks at once shares a read, never one that began before somebody of it asked; nothing is remembered."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.queues import SharedReads
from runtime.virtual import run_virtual
from tests.support.virtual import in_virtual_time

READ_S = 1.0
KEY = "job"


def now_s() -> float:
    return asyncio.get_running_loop().time()


class Source:
    """What is read: the number of the read, taken when it began; it is answered READ_S later."""

    def __init__(self) -> None:
        self.began_s: list[float] = []
        self.fails: set[int] = set()

    async def read(self) -> int:
        self.began_s.append(now_s())
        number = len(self.began_s)
        await asyncio.sleep(READ_S)
        if number in self.fails:
            raise ConnectionError(f"read {number}")
        return number


def kept(reads: SharedReads[Any]) -> list[object]:
    return [one for one in (reads._last, reads._readers, reads._queues._locks) if one]


def asks(reads: SharedReads[int], source: Source, count: int = 1) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(reads.fresh(KEY, source.read)) for _ in range(count)]


@in_virtual_time
async def test_a_crowd_that_asks_during_a_read_shares_one_further_read_that_began_after_it_asked() -> None:
    reads, source = SharedReads[int](), Source()
    first = asks(reads, source)
    await asyncio.sleep(READ_S / 2)
    crowd = asks(reads, source, 50)
    assert await asyncio.gather(*first, *crowd) == [1, *[2] * 50]
    assert source.began_s == [0.0, READ_S]


@in_virtual_time
async def test_a_crowd_that_asks_at_the_same_moment_costs_two_reads() -> None:
    reads, source = SharedReads[int](), Source()
    assert await asyncio.gather(*asks(reads, source, 50)) == [1, *[2] * 49]
    assert len(source.began_s) == 2


@in_virtual_time
async def test_who_asks_while_the_crowds_read_is_under_way_waits_for_the_next() -> None:
    reads, source = SharedReads[int](), Source()
    waiting = asks(reads, source, 3)
    await asyncio.sleep(1.5 * READ_S)
    waiting += asks(reads, source, 2)
    assert await asyncio.gather(*waiting) == [1, 2, 2, 3, 3]


@in_virtual_time
async def test_asked_one_after_the_other_each_reads() -> None:
    reads, source = SharedReads[int](), Source()
    assert [await reads.fresh(KEY, source.read) for _ in range(3)] == [1, 2, 3]


@in_virtual_time
async def test_what_is_asked_after_an_answer_came_is_read_anew_though_others_still_wait_for_theirs() -> None:
    reads, source = SharedReads[int](), Source()

    async def asks_twice() -> tuple[int, int]:
        return await reads.fresh(KEY, source.read), await reads.fresh(KEY, source.read)

    assert await asyncio.gather(*(asks_twice() for _ in range(3))) == [(1, 2), (2, 3), (2, 3)]


@in_virtual_time
async def test_that_there_is_nothing_is_shared_like_anything_else() -> None:
    reads, began = SharedReads[None](), itertools.count(1)
    told: list[int] = []

    async def nothing() -> None:
        told.append(next(began))
        await asyncio.sleep(READ_S)

    assert await asyncio.gather(*(reads.fresh(KEY, nothing) for _ in range(20))) == [None] * 20
    assert told == [1, 2]


@in_virtual_time
async def test_other_keys_neither_wait_nor_share() -> None:
    reads, source = SharedReads[int](), Source()
    values = await asyncio.gather(*(reads.fresh(f"job-{number}", source.read) for number in range(20)))
    assert sorted(values) == list(range(1, 21))
    assert now_s() == READ_S


@in_virtual_time
async def test_a_failed_read_answers_nobody_who_asks_after_it() -> None:
    reads, source = SharedReads[int](), Source()
    source.fails = {1}
    with pytest.raises(ConnectionError, match="read 1"):
        await reads.fresh(KEY, source.read)
    assert await reads.fresh(KEY, source.read) == 2
    assert kept(reads) == []


@in_virtual_time
async def test_a_read_that_fails_under_a_waiting_crowd_is_not_taken_for_an_answer_to_it() -> None:
    reads, source = SharedReads[int](), Source()
    source.fails = {1}
    first = asks(reads, source)
    await asyncio.sleep(READ_S / 2)
    crowd = await asyncio.gather(*asks(reads, source, 10))
    assert crowd == [2] * 10
    assert isinstance(first[0].exception(), ConnectionError)


@in_virtual_time
async def test_where_every_read_fails_everybody_is_told_and_nothing_is_kept() -> None:
    reads, source = SharedReads[int](), Source()
    source.fails = set(range(1, 100))
    outcomes = await asyncio.gather(*asks(reads, source, 10), return_exceptions=True)
    assert [type(one) for one in outcomes] == [ConnectionError] * 10
    assert kept(reads) == []


@in_virtual_time
async def test_a_value_from_before_a_failure_is_not_given_to_who_asked_after_it() -> None:
    reads, source = SharedReads[int](), Source()
    source.fails = {2}
    waiting = asks(reads, source)
    await asyncio.sleep(READ_S / 2)
    waiting += asks(reads, source, 2)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert outcomes[0] == 1
    assert 1 not in outcomes[1:]


@pytest.mark.parametrize(
    ("cancelled", "others"),
    [
        pytest.param(0, [2, 2, 2], id="who reads"),
        pytest.param(1, [1, 2, 2], id="who would have read for the crowd"),
        pytest.param(3, [1, 2, 2], id="who only shares"),
    ],
)
@in_virtual_time
async def test_who_goes_away_leaves_the_others_their_answer(cancelled: int, others: list[int]) -> None:
    reads, source = SharedReads[int](), Source()
    waiting = asks(reads, source, 4)
    await asyncio.sleep(READ_S / 2)
    gone = waiting.pop(cancelled)
    gone.cancel()
    assert await asyncio.gather(*waiting) == others
    assert gone.cancelled()
    assert kept(reads) == []


@in_virtual_time
async def test_the_reader_of_a_crowd_goes_away_while_it_reads() -> None:
    reads, source = SharedReads[int](), Source()
    waiting = asks(reads, source, 4)
    await asyncio.sleep(1.5 * READ_S)
    waiting[1].cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [outcomes[0], *outcomes[2:]] == [1, 3, 3]


@in_virtual_time
async def test_a_value_is_kept_no_longer_than_somebody_waits_for_it() -> None:
    reads, source = SharedReads[int](), Source()
    waiting = asks(reads, source, 3)
    await asyncio.sleep(1.5 * READ_S)
    assert kept(reads) != []
    await asyncio.gather(*waiting)
    assert kept(reads) == []


ASKS = st.tuples(
    st.sampled_from("ab"),
    st.integers(0, 6),  # comes
    st.integers(1, 3),  # reads so long, if it is the one who reads
    st.booleans(),  # and fails then
    st.none() | st.integers(0, 6),  # goes away
)


@given(st.lists(ASKS, max_size=12))
def test_whoever_comes_and_goes_nobody_is_answered_by_an_older_read_and_at_last_nothing_is_kept(
    plans: list[tuple[str, int, int, bool, int | None]],
) -> None:
    reads, under_way = SharedReads[int](), {"a": 0, "b": 0}
    steps = itertools.count()

    def read_of(key: str, takes_s: int, fails: bool) -> Callable[[], Any]:
        async def read() -> int:
            began = next(steps)
            under_way[key] += 1
            assert under_way[key] == 1, "two reads of one key at once"
            try:
                await asyncio.sleep(takes_s)
            finally:
                under_way[key] -= 1
            if fails:
                raise ConnectionError
            return began

        return read

    async def asker(key: str, comes: int, takes_s: int, fails: bool) -> None:
        await asyncio.sleep(comes)
        asked = next(steps)
        assert await reads.fresh(key, read_of(key, takes_s, fails)) > asked

    async def main() -> list[object]:
        tasks = [asyncio.create_task(asker(*plan)) for *plan, _ in plans]
        for task, (*_, goes) in zip(tasks, plans, strict=True):
            if goes is not None:
                asyncio.get_running_loop().call_later(goes + 0.5, task.cancel)
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = run_virtual(main())
    expected = (type(None), ConnectionError, asyncio.CancelledError)
    assert [one for one in outcomes if not isinstance(one, expected)] == []
    assert kept(reads) == []


@in_virtual_time
async def test_a_crowd_is_told_together_that_the_read_failed() -> None:
    reads: SharedReads[str] = SharedReads()

    async def times_out() -> str:
        await asyncio.sleep(5)
        raise ConnectionError

    told = await asyncio.gather(*(reads.fresh("job", times_out) for _ in range(50)), return_exceptions=True)
    assert {type(one) for one in told} == {ConnectionError}
    assert asyncio.get_running_loop().time() <= 10  # the read under way as they came, and the one that they share
