"""How simulated processes reach each other: a bus and REST whose messages outlive their sender, all written down."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from bus.memory import MemoryBroker, MemoryBus, _Subscription
from bus.port import Listener
from bus.subjects import gone_subject
from chaos.processes import Process
from chaos.recording import AskRecorder, Message, through_json
from coordinator.context import Context
from coordinator.inbox import OPS
from coordinator.store.port import StoreError
from factory.link.port import Unanswered
from schemas.errors import ErrorCode, FleetError
from schemas.messages import LogChunk

REST_TIMEOUT_S = 5.0
HOP_S = (0.0005, 0.003)
Act = Callable[[Context, "asyncio.Future[None]"], Awaitable[Message]]


class ProcessBroker(MemoryBroker):
    """What is on its way is nobody's: it arrives even if its sender is killed."""

    def _send(self, arrive: Callable[[], None]) -> None:
        contextvars.Context().run(super()._send, arrive)


class ProcessBus(MemoryBus):
    """A process' client: what it hears is heard in steps of that process."""

    def __init__(self, broker: MemoryBroker, process: Process, **names: Any) -> None:
        super().__init__(broker, **names)
        self._process = process

    def on_change(self, listener: Callable[[bool], None]) -> None:
        super().on_change(lambda up: self._process.call(listener, up))

    def _add(self, subscription: _Subscription) -> _Subscription:
        heard: Listener = subscription.listener
        subscription.listener = lambda message: self._process.call(heard, message)
        return super()._add(subscription)

    def vanish(self) -> None:
        """Its process was killed, and the broker sees the connection end."""
        self._closed = True
        if self._connected:
            self._connected = False
            self._broker.tell_presence(gone_subject(), self)
        self._broker.leave(self)
        for subscription in list(self._subscriptions):
            subscription.stopped = True
            self.forget(subscription)


class CoordinatorPeer(Protocol):
    """A coordinator as the network sees it: `ctx` None while it is not up."""

    process: Process
    ctx: Context | None
    cut_off: bool


class Rest:
    """Requests to coordinators. A client meets any of them, as behind a balancer; a killed one resets the call."""

    def __init__(self, nodes: list[CoordinatorPeer], chance: random.Random) -> None:
        self.nodes = nodes
        self.loss = 0.0
        self.delay_s = 0.0
        self._chance = chance
        self._under_way: dict[asyncio.Future[Message], tuple[Process, CoordinatorPeer, asyncio.Future[None]]] = {}

    async def ask(self, asker: Process, act: Act, timeout_s: float) -> Message:
        """Raises FleetError for a refusal, Unanswered for none."""
        node = self._chance.choice(self.nodes)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Message] = loop.create_future()
        gone: asyncio.Future[None] = loop.create_future()
        self._under_way[answer] = (asker, node, gone)
        self._later(self._arrive, node, act, answer, gone)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise Unanswered("no answer in time") from None
        finally:
            self._under_way.pop(answer, None)
            if not gone.done():
                gone.set_result(None)

    def reset(self, process: Process) -> None:
        """The connections of a killed process end on both sides."""
        for answer, (asker, node, gone) in list(self._under_way.items()):
            if node.process is process and not answer.done():
                answer.set_exception(Unanswered("connection reset"))
            if asker is process and not gone.done():
                gone.set_result(None)
                del self._under_way[answer]

    def _later(self, act: Callable[..., object], *args: Any) -> None:
        delay_s = self._chance.uniform(*HOP_S) + self._chance.uniform(0, self.delay_s)
        asyncio.get_running_loop().call_later(delay_s, act, *args, context=contextvars.Context())

    def _lost(self) -> bool:
        return self.loss > 0 and self._chance.random() < self.loss

    def _arrive(
        self, node: CoordinatorPeer, act: Act, answer: asyncio.Future[Message], gone: asyncio.Future[None]
    ) -> None:
        if node.cut_off or self._lost():
            return
        if node.process.dead or node.ctx is None:
            if not answer.done():
                answer.set_exception(Unanswered("connection refused"))
        else:
            node.process.spawn(self._served(node.ctx, act, answer, gone))

    async def _served(
        self, ctx: Context, act: Act, answer: asyncio.Future[Message], gone: asyncio.Future[None]
    ) -> None:
        try:
            said: Message | Exception = await act(ctx, gone)
        except FleetError as error:
            unclear = error.code in (ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL)
            said = Unanswered(error.message) if unclear else error
        except StoreError as error:
            said = Unanswered(f"the store did not answer: {error}")
        if not self._lost():
            self._later(_settle, answer, said)


def _settle(answer: asyncio.Future[Message], said: Message | Exception) -> None:
    if answer.done():
        return
    if isinstance(said, Exception):
        answer.set_exception(said)
    else:
        answer.set_result(said)


class SimRestLink:
    """`cut_off`: this client reaches nobody."""

    connected = True

    def __init__(self, rest: Rest, process: Process, who: str, ask_recorder: AskRecorder) -> None:
        self.cut_off = False
        self._rest = rest
        self._process = process
        self._who = who
        self._ask_recorder = ask_recorder

    async def call(self, op: str, message: Message) -> Message:
        model, handler = OPS[op]
        sent = through_json(message)
        request = model.model_validate(sent)

        async def act(ctx: Context, gone: asyncio.Future[None]) -> Message:
            waits = (gone,) if sent.get("waitS") else ()
            return through_json((await handler(ctx, request, *waits)).to_doc())

        timeout_s = float(message.get("waitS") or 0.0) + REST_TIMEOUT_S
        return await self._ask_recorder.noted(self._who, op, "rest", sent, lambda: self.ask(act, timeout_s))

    async def ask(self, act: Act, timeout_s: float = REST_TIMEOUT_S) -> Message:
        if self.cut_off:
            await asyncio.sleep(timeout_s)
            raise Unanswered("cut off")
        return await self._rest.ask(self._process, act, timeout_s)

    async def send_log(self, chunk: LogChunk, *, live: bool) -> int:
        """Logs are no part of what a simulation looks at: each is heard, by nobody."""
        return chunk.offset + len(chunk.text.encode())
