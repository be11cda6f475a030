"""A test that leaves an event loop open fails itself: else the collector finds the loop in the middle of some later
test, which is blamed for it.
"""

from __future__ import annotations

import traceback
import weakref
from asyncio import BaseEventLoop
from collections.abc import Generator
from typing import Any

import pytest

FRAMES = 14

_made: weakref.WeakKeyDictionary[BaseEventLoop, str] = weakref.WeakKeyDictionary()
_init = BaseEventLoop.__init__


def _init_noted(loop: BaseEventLoop) -> None:
    _init(loop)
    _made[loop] = "".join(traceback.format_stack(limit=FRAMES))


def pytest_configure() -> None:
    BaseEventLoop.__init__ = _init_noted  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Generator[None, Any, Any]:
    answer = yield
    left_open = [(loop, made) for loop, made in _made.items() if not loop.is_closed()]
    for loop, _ in left_open:
        loop.close()
    assert not left_open, "\n".join(f"{loop!r} was left open; it was made here:\n{made}" for loop, made in left_open)
    return answer
