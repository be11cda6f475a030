"""Runs an async test in virtual time: waits cost nothing, and the same test always takes the same course."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any

from runtime.virtual import run_virtual


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtual(test(*args, **kwargs))

    return run
