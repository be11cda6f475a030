"""Processes on one virtual-time loop that can be killed and stopped, as by SIGKILL and SIGSTOP.

A process is a contextvar: tasks inherit it, and every step that the loop runs belongs to the process of its context. A
killed process runs no further step, not even a `finally`; a stopped one runs what came due when it goes on.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any

from runtime.virtual import VirtualLoop

_current: ContextVar[Process | None] = ContextVar("process", default=None)
STEP_S = 1e-6
Step = tuple[list[asyncio.Handle], Callable[..., object], tuple[Any, ...], Context]


PROCESSES: list[Process] = []  # also the dead, whose tasks must not be collected: that would run their `finally`s


class Process:
    """One life of a process. `name`: such as `coordinator:c1`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.stopped = False
        self.context = contextvars.Context()
        self.context.run(_current.set, self)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._due: deque[Step] = deque()
        PROCESSES.append(self)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str | None = None) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name, context=self.context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def call(self, act: Callable[..., object], *args: Any) -> None:
        """In a step of this process, never inside the caller's."""
        asyncio.get_running_loop().call_soon(act, *args, context=self.context.copy())

    def kill(self) -> None:
        self.dead = True
        self._due.clear()

    def stop(self) -> None:
        self.stopped = True

    def go_on(self) -> None:
        self.stopped = False
        loop = asyncio.get_running_loop()
        while self._due:
            cell, act, args, context = self._due.popleft()
            if not cell.pop().cancelled():
                loop.call_soon(act, *args, context=context)

    def step(self, cell: list[asyncio.Handle], act: Callable[..., object], args: tuple[Any, ...], ctx: Context) -> None:
        if self.stopped and not self.dead:
            self._due.append((cell, act, args, ctx))
            return
        cell.clear()  # the handle holds the cell too: as a ring they would all wait for the collector
        if not self.dead:
            act(*args)


class ProcessLoop(VirtualLoop):
    def __init__(self) -> None:
        super().__init__(STEP_S)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        process = _current.get() if context is None else context.get(_current)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        context = context or contextvars.copy_context()
        cell: list[asyncio.Handle] = []
        handle = super().call_soon(process.step, cell, callback, args, context, context=context)
        cell.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        process = _current.get() if context is None else context.get(_current)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        context = context or contextvars.copy_context()
        cell: list[asyncio.Handle] = []
        handle = super().call_at(when, process.step, cell, callback, args, context, context=context)
        cell.append(handle)
        return handle
