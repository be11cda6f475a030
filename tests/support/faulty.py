"""Wraps a store and does, call by call, what a test scripts: lose a write, lose its answer, let it land late,
or let others act first. Everything else passes through."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from typing import Any

from coordinator.store.port import Indefinite, Store

Call = Callable[[], Awaitable[Any]]
Step = Callable[[Call], Awaitable[Any]]


async def passes(call: Call) -> Any:
    return await call()


async def never_applied(call: Call) -> Any:
    raise Indefinite("scripted: lost on the way")


async def answer_lost(call: Call) -> Any:
    await call()
    raise Indefinite("scripted: applied, but the answer was lost")


def lands_after(event: asyncio.Event, landed: asyncio.Event | None = None) -> Step:
    """Answered with a timeout now; applied once `event` is set, whatever the asker did meanwhile."""

    async def step(call: Call) -> Any:
        async def late() -> None:
            await event.wait()
            await call()
            if landed is not None:
                landed.set()

        tasks.add(task := asyncio.create_task(late()))
        task.add_done_callback(tasks.discard)
        raise Indefinite("scripted: timed out, still on its way")

    return step


def after(act: Callable[[], Awaitable[Any]]) -> Step:
    """Others act between the asker's decision to call and the call."""

    async def step(call: Call) -> Any:
        await act()
        return await call()

    return step


tasks: set[asyncio.Task[None]] = set()


class FaultyStore:
    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self._scripts: dict[str, deque[Step]] = defaultdict(deque)
        self.calls: list[str] = []

    def script(self, method: str, *steps: Step) -> None:
        """The next calls of `method` go by these steps, one each; later ones pass."""
        self._scripts[method].extend(steps)

    @property
    def atomic_then(self) -> bool:
        return self.inner.atomic_then

    def __getattr__(self, method: str) -> Any:
        target = getattr(self.inner, method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(method)
            script = self._scripts[method]
            step = script.popleft() if script else passes
            return await step(lambda: target(*args, **kwargs))

        return call
