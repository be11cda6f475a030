"""The bus over NATS: the only file that imports nats.

A connection is never mended, it is replaced whole: one loop connects, makes every subscription again, and
waits for the loss. So nothing written before a loss is sent after it, and a client that the library closed
for good (refused, expired, cut off) is the same case as a broker that went away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import nkeys
from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription
from nats.aio.transport import TcpTransport
from nats.js.api import RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

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
from bus.serving import Counts, Serving, announce, check_size, deliver
from bus.subjects import EVENT_STREAM, event_wildcard

log = logging.getLogger(__name__)

START_WAIT_S = 1.0
LAST_WORDS_S = 0.5  # how long `close` waits for what was just published to reach the broker
STREAM_CALL_S = 5.0
EVENTS_KEPT_S = 7 * 24 * 3600
EVENTS_BYTES_MAX = 1024**3
DUPLICATE_WINDOW_S = 120
DROPS_PER_WARNING = 1000


@dataclass(frozen=True)
class NatsSettings:
    """A silent broker is given up after `ping_interval_s` times (`max_outstanding_pings` + 1)."""

    connect_timeout_s: float = 1.0
    reconnect_wait_s: float = 0.25
    ping_interval_s: float = 1.0
    max_outstanding_pings: int = 1
    pending_messages_max: int = 65536  # per subscription, between the socket and its listener


class _Connection(Client):
    """One connection from birth to loss. `lost` is set at once, `ended` when nothing of it runs any more."""

    def __init__(self) -> None:
        super().__init__()
        self.established = False
        self.lost = asyncio.Event()
        self.ended = asyncio.Event()

    async def heard_by_broker(self, timeout_s: float) -> bool:
        """Whether the broker has handled all that was sent before, within the time.

        The library's `flush` writes its ping ahead of what still waits to be written; when it times out it
        cancels a future over which the late pong then trips, and its read loop dies.
        """
        if not self.is_connected:
            return False
        assert self._transport is not None
        self._transport.writelines(self._pending)
        self._forget_unsent()
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        await self._send_ping(pong)
        await asyncio.wait({pong}, timeout=timeout_s)
        return pong.done() and not pong.cancelled()

    async def discard(self) -> None:
        with suppress(Exception):  # nothing that goes wrong with a lost connection matters any more
            await self.close()
        await self.ended.wait()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """Every end comes through here. Unsent bytes are thrown away: on a frozen broker the library would
        wait for them for ever, on a dead one it would fail half-way and leave its tasks behind.
        """
        if self.is_closed:
            return
        self.lost.set()
        try:
            self._forget_unsent()
            if isinstance(self._transport, TcpTransport) and self._transport._io_writer is not None:
                self._transport._io_writer.transport.abort()
            for answer in list(self._resp_map.values()):
                if not answer.done():
                    answer.set_exception(errors.ConnectionClosedError())
            for pong in self._pongs:
                pong.cancel()
            await super()._close(status, do_cbs)
        finally:
            self.ended.set()

    def _forget_unsent(self) -> None:
        self._pending = []
        self._pending_data_size = 0


class _Subscription:
    """What was asked for, and its counterpart on the live connection, if there is one."""

    def __init__(
        self,
        subject: str,
        queue: str | None,
        listener: Listener,
        forget: Callable[[_Subscription], None],
        serving: Serving | None = None,
    ) -> None:
        self._subject = subject
        self._queue = queue or ""
        self._listener = listener
        self._forget = forget
        self._serving = serving
        self._on: _Connection | None = None
        self._counterpart: NatsSubscription | None = None
        self._stopped = False

    def is_on(self, connection: _Connection) -> bool:
        return self._on is connection

    async def make_on(self, connection: _Connection, pending_max: int) -> None:
        if self._stopped or self.is_on(connection):
            return
        self._on = connection
        self._counterpart = await connection.subscribe(
            self._subject, queue=self._queue, cb=self._hear, pending_msgs_limit=pending_max
        )
        if self._stopped:
            await self._unmake()

    async def stop(self) -> None:
        self._stopped = True
        self._forget(self)
        await self._unmake()
        await self.stop_serving()

    async def stop_serving(self) -> None:
        if self._serving is not None:
            await self._serving.stop()

    async def _unmake(self) -> None:
        made, self._counterpart = self._counterpart, None
        if made is not None:
            with suppress(errors.Error, OSError):
                await made.unsubscribe()

    async def _hear(self, msg: Msg) -> None:
        if not self._stopped:
            deliver(self._listener, Message(msg.subject, msg.data, msg.reply or None))


class NatsBus:
    """`inbox_prefix` is where answers come back; a factory's broker user may listen to its own only.

    Raises ValueError for a URL or a seed that can never work. The seed is never logged or shown.
    """

    def __init__(
        self,
        url: str,
        *,
        nkey_seed: str | None,
        inbox_prefix: str | None,
        name: str,
        settings: NatsSettings | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("nats", "tls") or not parts.hostname:
            raise ValueError("the address of the bus must read nats://host:port or tls://host:port")
        self._url = url
        self._shown = f"{parts.scheme}://{parts.hostname}:{parts.port or 4222}"  # without user and password
        self._name = name
        self._settings = settings or NatsSettings()
        self._options: dict[str, Any] = {
            "name": name,
            "nkeys_seed_str": None if nkey_seed is None else _checked_seed(nkey_seed),
            "inbox_prefix": inbox_prefix or "_INBOX",
            "allow_reconnect": False,
            "pending_size": 0,
            "connect_timeout": self._settings.connect_timeout_s,
            "ping_interval": self._settings.ping_interval_s,
            "max_outstanding_pings": self._settings.max_outstanding_pings,
        }
        self._subscriptions: list[_Subscription] = []
        self._counts = Counts()
        self._changes: list[Callable[[bool], None]] = []
        self._connection: _Connection | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self._closing = False
        self._last_refusal = ""

    def __repr__(self) -> str:
        return f"NatsBus({self._shown}, name={self._name!r}, connected={self.connected})"

    @property
    def connected(self) -> bool:
        return self._connection is not None and self._connection.is_connected

    @property
    def dropped(self) -> int:
        return self._counts.dropped

    @property
    def refused(self) -> int:
        return self._counts.refused

    async def start(self) -> None:
        assert self._loop_task is None, f"{self} was started before"
        self._loop_task = asyncio.create_task(self._keep_connected(), name=f"bus {self._name}")
        with suppress(TimeoutError):
            async with asyncio.timeout(START_WAIT_S):
                await self._tried.wait()

    async def close(self) -> None:
        """What was published before is still given a moment to leave; what runs for others is cancelled."""
        self._closing = True
        for subscription in list(self._subscriptions):
            await subscription.stop_serving()
        if self._connection is not None:
            await self._connection.heard_by_broker(LAST_WORDS_S)
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)

    def on_change(self, listener: Callable[[bool], None]) -> None:
        self._changes.append(listener)

    async def publish(self, subject: str, data: bytes, message_id: str | None = None) -> None:
        connection = self._live()
        headers = None if message_id is None else {"Nats-Msg-Id": message_id}
        check_size(subject, data, message_id)
        with _our_errors(subject):
            await connection.publish(subject, data, headers=headers)

    async def subscribe(self, subject: str, listener: Listener, queue: str | None = None) -> Subscription:
        """When this returns on a live connection the broker knows; else it will with the next connection."""
        return await self._add(_Subscription(subject, queue, listener, self._forget))

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
        return await self._add(_Subscription(subject, queue, serving.hear, self._forget, serving))

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        connection = self._live()
        check_size(subject, data)
        with _our_errors(subject):
            answer: bytes = (await connection.request(subject, data, timeout=timeout_s)).data
            return answer

    async def ensure_event_stream(self) -> None:
        """What an operator set beyond our limits (replicas, placement) is kept."""
        manager = self._live().jsm(timeout=STREAM_CALL_S)
        with _our_errors(EVENT_STREAM):
            try:
                present = (await manager.stream_info(EVENT_STREAM)).config
            except NotFoundError:
                await manager.add_stream(_with_our_limits(StreamConfig(name=EVENT_STREAM)))
                return
            wanted = _with_our_limits(present)
            if wanted != present:
                await manager.update_stream(wanted)

    async def _add(self, subscription: _Subscription) -> _Subscription:
        self._subscriptions.append(subscription)
        connection = self._connection
        if connection is not None:
            with suppress(errors.Error, OSError):  # lost just now: the next connection makes it
                await subscription.make_on(connection, self._settings.pending_messages_max)
                await connection.heard_by_broker(self._settings.connect_timeout_s)
        return subscription

    def _forget(self, subscription: _Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def _live(self) -> _Connection:
        if self._connection is None or not self._connection.is_connected or self._closing:
            raise BusUnavailable(f"not connected to {self._shown}")
        return self._connection

    async def _keep_connected(self) -> None:
        while not self._closing:
            connection = _Connection()
            try:
                if await self._connect(connection) and not self._closing:
                    self._connection = connection
                    announce(self._changes, True)
                    self._tried.set()
                    await connection.lost.wait()
                    log.warning("%s: lost %s: %s", self._name, self._shown, connection.last_error)
                    announce(self._changes, False)
                self._tried.set()
            finally:
                self._connection = None
                await connection.discard()
            await asyncio.sleep(self._settings.reconnect_wait_s)

    async def _connect(self, connection: _Connection) -> bool:
        """One try: connected and with every subscription known to the broker, or not."""
        settings = self._settings
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                await self._open(connection)
            connection.established = True
            while missing := [one for one in self._subscriptions if not one.is_on(connection)]:
                for subscription in missing:
                    await subscription.make_on(connection, settings.pending_messages_max)
                if not await connection.heard_by_broker(settings.connect_timeout_s):
                    raise TimeoutError("it accepts connections and does not answer")
        except Exception as error:  # whatever it was, the next try is the remedy
            self._say_refusal(error)
            return False
        self._last_refusal = ""
        log.info("%s: connected to %s", self._name, self._shown)
        return True

    async def _open(self, connection: _Connection) -> None:
        async def on_error(error: Exception) -> None:
            if not connection.established and not connection.lost.is_set():
                raise error  # else the library goes on trying by itself, without end and without a word
            self._note(error)

        await connection.connect(self._url, error_cb=on_error, **self._options)

    def _note(self, error: Exception) -> None:
        """The library reports here what no call can raise."""
        if isinstance(error, errors.SlowConsumerError):
            self._counts.dropped += 1
            if self._counts.dropped % DROPS_PER_WARNING == 1:
                log.warning("%s: %s messages dropped: too slow", self._name, self._counts.dropped)
        elif "permissions violation" in str(error).lower():
            log.warning("%s: the broker refuses: %s", self._name, error)

    def _say_refusal(self, error: Exception) -> None:
        """Once per reason, not four times a second."""
        reason = str(error) or type(error).__name__
        if reason != self._last_refusal:
            log.warning("%s: no connection to %s: %s", self._name, self._shown, reason)
        self._last_refusal = reason


def _checked_seed(seed: str) -> str:
    """Tried now: a seed that cannot be read would fail at every connect, and its error might show it."""
    try:
        nkeys.from_seed(bytearray(seed.strip().encode())).wipe()
    except Exception:
        raise ValueError("the nkey seed of the bus cannot be read") from None
    return seed.strip()


def _with_our_limits(config: StreamConfig) -> StreamConfig:
    return config.evolve(
        subjects=[event_wildcard()],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_age=EVENTS_KEPT_S,
        max_bytes=EVENTS_BYTES_MAX,
        duplicate_window=DUPLICATE_WINDOW_S,
    )


@contextmanager
def _our_errors(about: str) -> Iterator[None]:
    try:
        yield
    except errors.NoRespondersError:
        raise BusUnavailable(f"{about}: nobody listens") from None
    except TimeoutError:
        raise BusTimeout(f"{about}: no answer in time") from None
    except (errors.ConnectionClosedError, errors.OutboundBufferLimitError, OSError) as error:
        raise BusUnavailable(f"{about}: {error}") from error
    except errors.Error as error:
        raise BusError(f"{about}: {error}") from error
