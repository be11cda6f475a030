"""What the proxy does to links is what the scenarios say of them: cut, half open, slow, or shared among upstreams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from chaos.live.proxy import CHUNK_BYTES, HOST, TcpProxy
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("processes")

WITHIN_S = 5.0
LOOK_S = 0.1  # what does not arrive in so much longer than a loop takes does not arrive
DELAY_S = 0.15
BYE = b"bye"
BIG = bytes(range(256)) * 4096  # more than the buffers of a connection hold

T = TypeVar("T")


async def soon(waits: Awaitable[T]) -> T:
    async with asyncio.timeout(WITHIN_S):
        return await waits


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def hangs_up(self) -> None:
        self.writer.transport.abort()

    async def says(self, data: bytes) -> None:
        self.writer.write(data)
        await soon(self.writer.drain())

    async def hears(self, count: int) -> bytes:
        return await soon(self.reader.readexactly(count))

    async def asks(self, data: bytes) -> bytes:
        await self.says(data)
        return await self.hears(len(data))

    async def hears_nothing(self) -> bool:
        """And is not told that anything is wrong either."""
        try:
            async with asyncio.timeout(LOOK_S):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False

    async def is_broken(self) -> bool:
        try:
            return await soon(self.reader.read(1)) == b""
        except ConnectionError:
            return True


@dataclass
class Upstream:
    """Answers each chunk with itself, after its own name if it has one, until it hears BYE."""

    name: bytes = b""
    port: int = 0
    speaks: asyncio.Event = field(default_factory=asyncio.Event)
    heard: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)
    connections: int = 0
    ended: int = 0
    server: asyncio.Server | None = None

    async def start(self) -> Upstream:
        self.speaks.set()
        self.server = await asyncio.start_server(self._serve, HOST, self.port)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while (data := await reader.read(CHUNK_BYTES)) not in (b"", BYE):
                self.heard += data
                await self.speaks.wait()
                self.answered += data
                writer.write(self.name + data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.ended += 1
            writer.close()

    def stop(self) -> None:
        if self.server is not None:
            self.server.close()


@dataclass
class World:
    proxy: TcpProxy
    upstreams: list[Upstream]
    stack: AsyncExitStack

    async def connected(self) -> Client:
        client = Client(*await soon(asyncio.open_connection(HOST, self.proxy.port)))
        self.stack.callback(client.hangs_up)
        return client


@asynccontextmanager
async def proxied(*names: bytes) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        upstreams = [await Upstream(name).start() for name in names or (b"",)]
        for upstream in upstreams:
            stack.callback(upstream.stop)
        proxy = TcpProxy([upstream.port for upstream in upstreams])
        await proxy.start()
        stack.push_async_callback(proxy.stop)
        yield World(proxy, upstreams, stack)


async def test_bytes_go_both_ways_unchanged() -> None:
    async with proxied() as world:
        client = await world.connected()
        assert await client.asks(b"hello") == b"hello"
        client.writer.write(BIG)
        assert await client.hears(len(BIG)) == BIG
        assert bytes(world.upstreams[0].heard) == b"hello" + BIG


async def test_connections_do_not_mix() -> None:
    async with proxied() as world:
        clients = [await world.connected() for _ in range(10)]
        words = [f"word-{number}".encode() for number in range(10)]
        assert await asyncio.gather(*(one.asks(word) for one, word in zip(clients, words, strict=True))) == words


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_where_one_end_closes_the_other_is_told(who: str) -> None:
    async with proxied() as world:
        client = await world.connected()
        await client.asks(b"x")
        if who == "client":
            client.writer.close()
        else:
            await client.says(BYE)
            assert await client.is_broken()
        await eventually(lambda: world.upstreams[0].ended == 1, WITHIN_S)


# -- cut --


async def test_a_cut_breaks_every_connection_at_both_ends_and_accepts_none() -> None:
    async with proxied() as world:
        clients = [await world.connected() for _ in range(5)]
        for client in clients:
            await client.asks(b"x")
        await soon(world.proxy.cut())
        assert [await client.is_broken() for client in clients] == [True] * 5
        await eventually(lambda: world.upstreams[0].ended == 5, WITHIN_S)
        with pytest.raises(ConnectionRefusedError):
            await world.connected()


@pytest.mark.parametrize("again", ["start", "mend"])
async def test_after_a_cut_it_listens_on_the_same_port_again(again: str) -> None:
    async with proxied() as world:
        port = world.proxy.port
        for _ in range(3):
            await (await world.connected()).asks(b"x")
            await soon(world.proxy.cut())
            await soon(world.proxy.start() if again == "start" else world.proxy.mend())
            assert world.proxy.port == port
        assert await (await world.connected()).asks(b"y") == b"y"


async def test_to_start_or_cut_twice_is_once() -> None:
    async with proxied() as world:
        client = await world.connected()
        await world.proxy.start()
        assert await client.asks(b"x") == b"x"
        await world.proxy.cut()
        await world.proxy.cut()
        await world.proxy.start()
        assert await (await world.connected()).asks(b"y") == b"y"


# -- half open --


async def test_half_open_connections_stand_and_carry_nothing_either_way() -> None:
    async with proxied() as world:
        client = await world.connected()
        await client.asks(b"before")
        world.proxy.half_open = True
        await client.says(b"lost")
        assert await client.hears_nothing()
        assert bytes(world.upstreams[0].heard) == b"before"
        assert world.upstreams[0].ended == 0


async def test_what_the_upstream_says_over_a_half_open_connection_does_not_arrive() -> None:
    async with proxied() as world:
        client = await world.connected()
        await client.asks(b"before")
        upstream = world.upstreams[0]
        upstream.speaks.clear()
        await client.says(b"asked")
        await eventually(lambda: upstream.heard.endswith(b"asked"), WITHIN_S)
        world.proxy.half_open = True
        upstream.speaks.set()
        await eventually(lambda: upstream.answered.endswith(b"asked"), WITHIN_S)
        assert await client.hears_nothing()


async def test_while_half_open_new_connections_are_accepted_and_carry_nothing() -> None:
    async with proxied() as world:
        world.proxy.half_open = True
        client = await world.connected()
        await client.says(b"lost")
        assert await client.hears_nothing()
        assert bytes(world.upstreams[0].heard) == b""


async def test_a_half_open_connection_takes_more_than_its_buffers_hold() -> None:
    """So that nobody notices by not being able to send."""
    async with proxied() as world:
        client = await world.connected()
        world.proxy.half_open = True
        for _ in range(8):
            await client.says(BIG)
        assert bytes(world.upstreams[0].heard) == b""


async def test_to_mend_breaks_what_was_half_open_and_new_connections_work() -> None:
    async with proxied() as world:
        old = await world.connected()
        await old.asks(b"before")
        world.proxy.half_open = True
        newer = await world.connected()
        await old.says(b"lost")
        await soon(world.proxy.mend())
        assert await old.is_broken()
        assert await newer.is_broken()
        assert await (await world.connected()).asks(b"after") == b"after"
        assert bytes(world.upstreams[0].heard) == b"beforeafter"


async def test_to_mend_leaves_connections_that_lost_nothing_alone_and_fast_again() -> None:
    async with proxied() as world:
        client = await world.connected()
        await client.asks(b"x")
        world.proxy.delay_s = 60.0
        await world.proxy.mend()
        assert await client.asks(b"y") == b"y"
        assert world.upstreams[0].connections == 1


# -- slow --


async def test_a_slow_link_is_late_both_ways_and_keeps_the_order() -> None:
    async with proxied() as world:
        client = await world.connected()
        await client.asks(b"x")
        world.proxy.delay_s = DELAY_S
        words = [f"word-{number};".encode() for number in range(20)]
        began_s = time.monotonic()
        for word in words:
            await client.says(word)
            await asyncio.sleep(0)
        assert await client.hears(len(b"".join(words))) == b"".join(words)
        assert time.monotonic() - began_s >= 2 * DELAY_S
        assert bytes(world.upstreams[0].heard) == b"x" + b"".join(words)


async def test_a_slow_link_does_not_slow_another_connection_down() -> None:
    async with proxied() as world:
        clients = [await world.connected() for _ in range(10)]
        world.proxy.delay_s = DELAY_S
        began_s = time.monotonic()
        await asyncio.gather(*(client.asks(b"x") for client in clients))
        assert 2 * DELAY_S <= time.monotonic() - began_s < 2 * DELAY_S * len(clients) / 2


# -- several upstreams --


async def test_upstreams_take_turns() -> None:
    async with proxied(b"a", b"b", b"c") as world:
        heard = []
        for _ in range(6):
            client = await world.connected()
            await client.says(b"?")
            heard.append(await client.hears(2))
        assert heard == [b"a?", b"b?", b"c?"] * 2


async def test_an_upstream_that_refuses_is_passed_over_and_comes_back_into_its_turn() -> None:
    async with proxied(b"a", b"b") as world:
        gone = world.upstreams[1]
        gone.stop()
        assert [await named(world) for _ in range(3)] == [b"a"] * 3
        await gone.start()
        assert {await named(world) for _ in range(2)} == {b"a", b"b"}


async def test_where_every_upstream_refuses_the_connection_breaks_and_later_ones_work() -> None:
    async with proxied(b"a", b"b") as world:
        for upstream in world.upstreams:
            upstream.stop()
        assert await (await world.connected()).is_broken()
        await world.upstreams[0].start()
        assert await named(world) == b"a"


async def test_a_connection_stays_with_its_upstream() -> None:
    async with proxied(b"a", b"b") as world:
        client = await world.connected()
        await world.connected()
        heard = []
        for _ in range(4):
            await client.says(b"?")
            heard.append(await client.hears(2))
        assert len(set(heard)) == 1


async def named(world: World) -> bytes:
    """Of the upstream that a new connection has come to."""
    client = await world.connected()
    await client.says(b"?")
    return (await client.hears(2))[:1]
