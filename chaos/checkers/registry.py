"""All checkers by name, and all that they find in a history."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from chaos.checkers import (
    blame,
    budgets,
    bus_holds_no_truth,
    capability,
    fencing,
    locks,
    no_idle_match,
    nothing_lost,
    one_engine,
    one_holder,
    recovery,
    retry_safe,
    rising_terms,
    truth,
    whole_history,
    work_kept,
)
from chaos.history import History, Violation

Check = Callable[[History], Iterator[Violation]]

CHECKERS: dict[str, Check] = {
    module.NAME: module.check
    for module in (
        one_holder,
        rising_terms,
        fencing,
        nothing_lost,
        recovery,
        whole_history,
        retry_safe,
        bus_holds_no_truth,
        locks,
        budgets,
        capability,
        no_idle_match,
        work_kept,
        blame,
        one_engine,
        truth,
    )
}


def violations(history: History) -> list[Violation]:
    return [violation for check in CHECKERS.values() for violation in check(history)]
