"""Who goes first for a job: told moments, it answers; queries change nothing, and what is over leaves no record."""

from __future__ import annotations

import math

from coordinator.dispatch.precedence import PrecedenceTable
from schemas.ids import JobKey

ONE, TWO = JobKey("shop", "one"), JobKey("shop", "two")


def is_empty(table: PrecedenceTable) -> bool:
    return not table._records and not table._promised


def test_a_job_that_nobody_goes_first_for_is_everybodys() -> None:
    table = PrecedenceTable()
    assert not table.is_asked(ONE)
    assert not table.is_promised(ONE, 0.0)
    assert not table.is_set_aside(ONE, 0.0)
    assert table.next_due_s() == math.inf
    assert is_empty(table)


def test_an_ask_is_at_a_job_until_it_ends_and_is_told_if_it_was_passed_over() -> None:
    table = PrecedenceTable()
    table.begin_ask(ONE)
    assert table.is_asked(ONE)
    assert not table.end_ask(ONE)
    table.begin_ask(ONE)
    table.pass_over(ONE)
    assert table.end_ask(ONE)
    assert not table.is_asked(ONE)
    assert is_empty(table)


def test_a_promise_holds_until_its_time_is_over() -> None:
    table = PrecedenceTable()
    table.promise(ONE, "f1", 5.0)
    assert table.is_promised(ONE, 4.9)
    assert not table.is_promised(ONE, 5.0)
    assert table.next_due_s() == 5.0
    assert not table.end_due(5.0)  # nothing that was set aside
    assert is_empty(table)


def test_what_was_promised_to_a_factory_is_withdrawn_from_it_alone() -> None:
    table = PrecedenceTable()
    table.promise(ONE, "f1", 5.0)
    table.promise(TWO, "f2", 5.0)
    table.withdraw("f1")
    assert not table.is_promised(ONE, 0.0)
    assert table.is_promised(TWO, 0.0)
    table.withdraw("f2")
    assert is_empty(table)


def test_a_later_promise_replaces_an_earlier_one() -> None:
    table = PrecedenceTable()
    table.promise(ONE, "f1", 5.0)
    table.promise(ONE, "f2", 7.0)
    table.withdraw("f1")
    assert table.is_promised(ONE, 6.0)


def test_a_job_is_set_aside_until_its_time_is_over_or_it_is_taken_back() -> None:
    table = PrecedenceTable()
    table.set_aside(ONE, 3.0)
    table.set_aside(TWO, 4.0)
    assert table.is_set_aside(ONE, 2.9)
    assert not table.is_set_aside(ONE, 3.0)
    assert table.next_due_s() == 3.0
    assert not table.end_due(2.9)
    assert table.end_due(3.0)
    assert table.take_back(TWO)
    assert not table.take_back(TWO)
    assert is_empty(table)


def test_what_ends_in_one_way_stays_in_another() -> None:
    table = PrecedenceTable()
    table.set_aside(ONE, 3.0)
    table.begin_ask(ONE)
    table.promise(ONE, "f1", 9.0)
    assert table.end_due(3.0)
    assert table.is_asked(ONE)
    assert table.is_promised(ONE, 3.0)
    table.end_ask(ONE)
    assert table.is_promised(ONE, 3.0)
