"""All checkers by name, and all that they find in a history."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from chaos.checkers import (
    fencing,
    locks,
    nothing_lost,
    one_engine,
    one_holder,
    retry_safe,
    rising_terms,
    truth,
    whole_history,
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
        whole_history,
        retry_safe,
        locks,
        one_engine,
        truth,
    )
}


def violations(history: History) -> list[Violation]:
    return [violation for check in CHECKERS.values() for violation in check(history)]
