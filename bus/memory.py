"""The twin: a broker in memory that loses, delays, reorders and repeats, on the event loop's time.

A listener runs in a step of its own, never inside the call that published. Chance comes from one Entropy, so
a run on a virtual-time loop is a function of its seed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import orjson

from bus.port import (
    CONCURRENCY,
    REQUEST_WAITS_S,
    BusError,
    BusTimeout,
    BusUnavailable,
    Listener,
    Message,
    Responder,
    Subscription,
)
from bus.rights import Rights
from bus.serving import Counts, Serving, announce, check_size, deliver
from bus.subjects import came_subject, event_wildcard, gone_subject
from runtime.entropy import Entropy

log = logging.getLogger(__name__)

RECONNECT_S = 0.25
NOTICE_S = 2.0  # how long a cut-off client and the broker each believe in their connection


@dataclass(frozen=True)
class BusFaults:
    """Of each delivery: how probable its loss and its repetition are, and the range of its delay in seconds.

    A range wider than the gaps between messages reorders them.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    delay_s: tuple[float, float] = (0.0, 0.0)


NO_FAULTS = BusFaults()


def matches(pattern: str, subject: str) -> bool:
    """Whether `pattern` covers `subject`, which may itself be a pattern."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(given) > index
        if index >= len(given) or given[index] == ">" or part not in ("*", given[index]):
            return False
    return len(wanted) == len(given)


def _stem(pattern: str) -> str:
    """What comes before the first wildcard."""
    parts = pattern.split(".")
    wild = (index for index, part in enumerate(parts) if part in ("*", ">"))
    return ".".join(parts[: next(wild, len(parts))])


class _Subscription:
    def __init__(
        self, bus: MemoryBus, subject: str, listener: Listener, queue: str | None, serving: Serving | None = None
    ) -> None:
        self.bus = bus
        self.subject = subject
        self.queue = queue
        self.listener = listener
        self.serving = serving
        self.stopped = False

    async def stop(self) -> None:
        self.stopped = True
        self.bus.forget(self)
        if self.serving is not None:
            await self.serving.stop()


class _Interest:
    """Subscriptions by the stem of their pattern, so that finding a subject's takes no walk over all."""

    def __init__(self) -> None:
        self._by_stem: dict[str, list[_Subscription]] = {}

    def add(self, subscription: _Subscription) -> None:
        self._by_stem.setdefault(_stem(subscription.subject), []).append(subscription)

    def remove(self, subscription: _Subscription) -> None:
        stem = _stem(subscription.subject)
        held = self._by_stem.get(stem, [])
        if subscription in held:
            held.remove(subscription)
        if not held:
            self._by_stem.pop(stem, None)

    def of(self, subject: str) -> Iterator[_Subscription]:
        parts = subject.split(".")
        for length in range(len(parts) + 1):
            for subscription in self._by_stem.get(".".join(parts[:length]), ()):
                if subscription.bus.connected and matches(subscription.subject, subject):
                    yield subscription


class MemoryBroker:
    """`events` is the recorded event stream by message id, once a client has asked for it; what it has, it
    drops. An event without a message id is not recorded.

    `violations` counts publishes and subscriptions outside a client's rights; that client never learns.
    """

    def __init__(self, entropy: Entropy, faults: BusFaults = NO_FAULTS) -> None:
        self.faults = faults
        self.running = True
        self.violations = 0
        self.events: dict[str, Message] = {}
        self.interest = _Interest()
        self._entropy = entropy
        self._records = False
        self._clients: list[MemoryBus] = []
        self._client_count = 0

    def stop(self) -> None:
        """An outage, noticed by every client at once. What is under way is lost."""
        self.running = False
        for bus in list(self._clients):
            bus.lose()

    def start(self) -> None:
        """Clients come back by themselves, RECONNECT_S later."""
        self.running = True
        for bus in list(self._clients):
            bus.come_back()

    def record(self) -> None:
        self._records = True

    def delete_stream(self) -> None:
        self._records = False
        self.events.clear()

    def enter(self, bus: MemoryBus) -> int:
        """The client's number, unique in this broker."""
        self._clients.append(bus)
        self._client_count += 1
        return self._client_count

    def leave(self, bus: MemoryBus) -> None:
        if bus in self._clients:
            self._clients.remove(bus)

    def tell_presence(self, subject: str, bus: MemoryBus) -> None:
        """Tells every connected client that one came or went. The broker's own messages suffer no faults."""
        if self.running and bus.public is not None:
            message = Message(subject, orjson.dumps({"client": {"user": bus.public, "name": bus.name}}))
            for subscription in self._chosen(subject):
                arrive = partial(_deliver, subscription, subscription.bus.term, message)
                asyncio.get_running_loop().call_soon(arrive)

    def route(self, message: Message, message_id: str | None) -> bool:
        """Sets the deliveries under way. False if nobody listens."""
        if self._records and message_id is not None and matches(event_wildcard(), message.subject):
            self._send(partial(self._record, message_id, message))
        chosen = self._chosen(message.subject)
        for subscription in chosen:
            self._send(partial(_deliver, subscription, subscription.bus.term, message))
        return bool(chosen)

    def _chosen(self, subject: str) -> list[_Subscription]:
        """Every plain subscription, and of each queue group one member."""
        plain: list[_Subscription] = []
        groups: dict[str, list[_Subscription]] = {}
        for one in self.interest.of(subject):
            (plain if one.queue is None else groups.setdefault(one.queue, [])).append(one)
        return plain + [members[int(self._entropy.fraction() * len(members))] for members in groups.values()]

    def _send(self, arrive: Callable[[], None]) -> None:
        loop, faults = asyncio.get_running_loop(), self.faults
        if faults.loss and self._entropy.fraction() < faults.loss:
            return
        repeats = 1 if faults.duplicate and self._entropy.fraction() < faults.duplicate else 0
        low, high = faults.delay_s
        for _ in range(1 + repeats):
            if high > 0:
                loop.call_later(low + (high - low) * self._entropy.fraction(), arrive)
            else:
                loop.call_soon(arrive)

    def _record(self, message_id: str, message: Message) -> None:
        if self.running and self._records:
            self.events.setdefault(message_id, message)


def _deliver(subscription: _Subscription, term: int, message: Message) -> None:
    """What left before a loss never arrives after it."""
    bus = subscription.bus
    if bus.connected and bus.term == term and not bus.cut_off and not subscription.stopped:
        deliver(subscription.listener, message)


class MemoryBus:
    """One client of a MemoryBroker. `inbox_prefix`, `rights`, `public`: as a real broker's user would have them."""

    def __init__(
        self,
        broker: MemoryBroker,
        *,
        name: str = "client",
        inbox_prefix: str | None = None,
        rights: Rights | None = None,
        public: str | None = None,
    ) -> None:
        self.name = name
        self.public = public
        self.cut_off = False
        self.term = 0  # counts this client's connections
        self._broker = broker
        self._inbox_prefix = inbox_prefix or "_INBOX"
        self._rights = rights
        self._subscriptions: list[_Subscription] = []
        self._changes: list[Callable[[bool], None]] = []
        self._counts = Counts()
        self._inbox = ""
        self._asked: dict[str, asyncio.Future[bytes]] = {}
        self._ask_count = 0
        self._connected = False
        self._closed = False
        self._noticing: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> bool:
        return self._connected

    @property
    def dropped(self) -> int:
        return self._counts.dropped

    @property
    def refused(self) -> int:
        return self._counts.refused

    async def start(self) -> None:
        assert not self._inbox, f"{self.name} was started before"
        self._inbox = f"{self._inbox_prefix}.{self._broker.enter(self)}"
        await self.subscribe(f"{self._inbox}.*", self._hear_answer)
        self._connect()
        await asyncio.sleep(0)

    async def close(self) -> None:
        self._closed = True
        if self._connected:
            self._connected = False
            self._broker.tell_presence(gone_subject(), self)
        self._broker.leave(self)
        self._fail_asked()
        for subscription in list(self._subscriptions):
            await subscription.stop()

    def cut(self) -> None:
        """Parts this client from the broker. For NOTICE_S both go on believing in the connection, and what is
        sent over it vanishes.
        """
        assert not self.cut_off, f"{self.name} is cut off"
        self.cut_off = True
        self._noticing = asyncio.get_running_loop().call_later(NOTICE_S, self.lose)

    def heal(self) -> None:
        """The connection goes on if nobody had noticed; else the client comes back RECONNECT_S later."""
        self.cut_off = False
        if self._noticing is not None:
            self._noticing.cancel()
        self.come_back()

    def on_change(self, listener: Callable[[bool], None]) -> None:
        self._changes.append(listener)

    async def publish(self, subject: str, data: bytes, message_id: str | None = None) -> None:
        check_size(subject, data, message_id)
        self._send(Message(subject, data), message_id)

    async def subscribe(self, subject: str, listener: Listener, queue: str | None = None) -> Subscription:
        return self._add(_Subscription(self, subject, listener, queue))

    async def serve(
        self,
        subject: str,
        respond: Responder,
        queue: str,
        allows_reply: Callable[[Message], bool],
        concurrency: int = CONCURRENCY,
        waits_s: float = REQUEST_WAITS_S,
    ) -> Subscription:
        serving = Serving(respond, allows_reply, self.publish, concurrency, waits_s, self._counts)
        return self._add(_Subscription(self, subject, serving.hear, queue, serving))

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        check_size(subject, data)
        self._ask_count += 1
        inbox = f"{self._inbox}.{self._ask_count}"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[inbox] = answer
        try:
            if not self._send(Message(subject, data, inbox)):
                raise BusUnavailable(f"{subject}: nobody listens")
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise BusTimeout(f"{subject}: no answer in time") from None
        finally:
            del self._asked[inbox]

    async def ensure_event_stream(self) -> None:
        self._check_connected()
        if self._rights is not None:
            raise BusError(f"{self.name} may not manage the event stream")
        self._broker.record()

    def forget(self, subscription: _Subscription) -> None:
        self._broker.interest.remove(subscription)
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def lose(self) -> None:
        if self._connected:
            self._connected = False
            self._broker.tell_presence(gone_subject(), self)
            self._fail_asked()
            asyncio.get_running_loop().call_soon(announce, self._changes, False)

    def come_back(self) -> None:
        if self._inbox and not self._connected:
            asyncio.get_running_loop().call_later(RECONNECT_S, self._connect)

    def _connect(self) -> None:
        if self._broker.running and not (self._connected or self.cut_off or self._closed):
            self._connected = True
            self.term += 1
            self._broker.tell_presence(came_subject(), self)
            asyncio.get_running_loop().call_soon(announce, self._changes, True)

    def _add(self, subscription: _Subscription) -> _Subscription:
        self._subscriptions.append(subscription)
        if self._rights is None or any(matches(one, subscription.subject) for one in self._rights.subscribe):
            self._broker.interest.add(subscription)
        else:
            self._say_violation("subscribe", subscription.subject)
        return subscription

    def _send(self, message: Message, message_id: str | None = None) -> bool:
        """False if it is known that nobody listens: a client that is cut off or not permitted never knows."""
        self._check_connected()
        if self.cut_off:
            return True
        if self._rights is None or any(matches(one, message.subject) for one in self._rights.publish):
            return self._broker.route(message, message_id)
        self._say_violation("publish", message.subject)
        return True

    def _say_violation(self, what: str, subject: str) -> None:
        self._broker.violations += 1
        log.warning("%s: the broker refuses: %s to %s", self.name, what, subject)

    def _check_connected(self) -> None:
        if not self._connected:
            raise BusUnavailable(f"{self.name} is not connected")

    def _hear_answer(self, message: Message) -> None:
        answer = self._asked.get(message.subject)
        if answer is not None and not answer.done():
            answer.set_result(message.data)

    def _fail_asked(self) -> None:
        for inbox, answer in self._asked.items():
            if not answer.done():
                answer.set_exception(BusUnavailable(f"{inbox}: the connection was lost"))
