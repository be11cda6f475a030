"""One coordinator under the walk, driven by hand. All that it does follows from what it was answered, in this order:
so its states form a tree by answers, each is had by answering anew from the start, and is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Hashable, Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVarTuple, Unpack

from chaos.walk.store_value import Answer, Call
from coordinator.store.port import StoreError
from schemas.errors import FleetError

Ts = TypeVarTuple("Ts")

LIVE_MAX = 3000  # coroutines kept at their places, so that they need not be brought there again

BEGIN = Call("begin", ())
BEGUN = Answer("begun")


class OpResult(NamedTuple):
    """`kind`: answered | refused | unanswered | broke. `text`: the answer or the error, as JSON."""

    kind: str
    text: bytes


DEAD = OpResult("unanswered", b'"its coordinator died"')

Work = Coroutine[Any, Any, OpResult]
Begin = Callable[[], list[Callable[[], Work]]]
"""Makes a coordinator anew, and gives its operations, each to be begun when it is its turn."""


@dataclass(eq=False)
class CoordinatorState:
    """A state of one coordinator: what each of its operations waits for, or came to. `wrongs`: what it logged so far
    that it should never have to.
    """

    number: int
    parent: tuple[CoordinatorState, int, Answer] | None
    depth: int
    pending: tuple[Call | None, ...]
    results: tuple[OpResult | None, ...]
    wrongs: tuple[str, ...] = ()
    children: dict[Hashable, CoordinatorState] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return all(self.results)


class Timeless(asyncio.BaseEventLoop):
    """Never runs. It lets coroutines wait for one another by hand; to pause takes no time, since what others do
    meanwhile, they do at the calls of the store around it.
    """

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        callback(*args)
        return asyncio.TimerHandle(delay, callback, args, self, context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None: ...


class _Contradictions(logging.Handler):
    """Hears what the loops log and go on after: an exception that no part of the system raises on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, FleetError | StoreError):
            self.heard.append(f"{record.getMessage()}: {error!r}")

    def taken(self) -> tuple[str, ...]:
        heard, self.heard = tuple(self.heard), []
        return heard


contradictions = _Contradictions()


@contextlib.contextmanager
def by_hand() -> Iterator[None]:
    """Inside, coroutines find a loop that never runs, and what they log is listened to."""
    loop = Timeless()
    loggers = [logging.getLogger(name) for name in ("coordinator", "runtime")]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(contradictions)
        logger.propagate = False
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(None)
        loop.close()
        for logger, propagate in zip(loggers, before, strict=True):
            logger.removeHandler(contradictions)
            logger.propagate = propagate
        contradictions.taken()


class _Running:
    """The operations of one coordinator as living coroutines."""

    def __init__(self, begin: Sequence[Callable[[], Work]]) -> None:
        self._begin = begin
        self._work: list[Work | None] = [None] * len(begin)
        self._waits: list[Any] = [BEGIN] * len(begin)
        self.results: list[OpResult | None] = [None] * len(begin)

    def pending(self) -> tuple[Call | None, ...]:
        return tuple(one if isinstance(one, Call) else None for one in self._waits)

    def answer(self, op: int, answer: Answer) -> None:
        if self._waits[op] is BEGIN:
            self._work[op] = self._begin[op]()
        self._resume(op, answer)
        while (op := self._its_turn()) >= 0:
            self._resume(op, BEGUN)

    def close(self) -> None:
        for work in self._work:
            if work is not None:
                work.close()

    def _its_turn(self) -> int:
        """One that waited for another of this process, and need not any more."""
        turns = (op for op, waits in enumerate(self._waits) if isinstance(waits, asyncio.Future) and waits.done())
        return next(turns, -1)

    def _resume(self, op: int, answer: Answer) -> None:
        work = self._work[op]
        assert work is not None
        try:
            if answer.trouble is None:
                self._waits[op] = work.send(answer.value)
            else:
                self._waits[op] = work.throw(answer.trouble())
        except StopIteration as end:
            self._waits[op], self.results[op] = None, end.value


class CoordinatorWalk:
    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._count = 0
        self._live: dict[int, _Running] = {}
        self.root = self._node(None, _Running(begin()))

    def after(self, node: CoordinatorState, op: int, answer: Answer) -> CoordinatorState:
        """The state that follows when this operation's call is answered so."""
        child = node.children.get((op, answer.key))
        if child is None:
            running = self._live.pop(node.number, None) or self._again(node)
            running.answer(op, answer)
            child = node.children[(op, answer.key)] = self._node((node, op, answer), running)
        return child

    def dead(self, node: CoordinatorState) -> CoordinatorState:
        """It does nothing any more: what it had not answered stays unanswered."""
        child = node.children.get("dead")
        if child is None:
            results = tuple(result or DEAD for result in node.results)
            self._count += 1
            child = CoordinatorState(self._count, None, node.depth + 1, (None,) * len(results), results, node.wrongs)
            node.children["dead"] = child
        return child

    def close(self) -> None:
        for running in self._live.values():
            running.close()
        self._live.clear()

    def _node(self, parent: tuple[CoordinatorState, int, Answer] | None, running: _Running) -> CoordinatorState:
        self._count += 1
        depth = parent[0].depth + 1 if parent else 0
        wrongs = (*(parent[0].wrongs if parent else ()), *contradictions.taken())
        node = CoordinatorState(self._count, parent, depth, running.pending(), tuple(running.results), wrongs)
        self._live[node.number] = running
        if len(self._live) > LIVE_MAX:
            self._live.pop(next(iter(self._live))).close()
        return node

    def _again(self, node: CoordinatorState) -> _Running:
        answers = []
        while node.parent is not None:
            node, op, answer = node.parent
            answers.append((op, answer))
        running = _Running(self._begin())
        for op, answer in reversed(answers):
            running.answer(op, answer)
        contradictions.taken()
        return running
