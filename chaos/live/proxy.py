"""A TCP proxy that breaks links as networks do: cut, slow, or half open. With several upstreams it is a balancer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence

HOST = "127.0.0.1"
CHUNK_BYTES = 64 * 1024
CHUNKS_MAX = 256  # on their way at once
CONNECT_WITHIN_S = 5.0
BACKLOG = 1024


class TcpProxy:
    """`delay_s`: each chunk arrives so much later, either way, in order. `half_open`: connections stand, new ones too,
    and nothing that is sent arrives any more, not even their end.

    Upstreams take turns; one that refuses is passed over.
    """

    def __init__(self, upstreams: Sequence[int], port: int = 0) -> None:
        self.port = port
        self.delay_s = 0.0
        self.half_open = False
        self._upstreams = tuple(upstreams)
        self._turns = itertools.cycle(range(len(self._upstreams)))
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens; after a cut, on the same port again."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, HOST, self.port, reuse_address=True, backlog=BACKLOG)
            self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Every connection breaks and none is accepted, until it is started again."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self._break_all()

    async def mend(self) -> None:
        """All as it should be. Connections that were half open break, since bytes of theirs are lost."""
        self.delay_s = 0.0
        if self.half_open:
            self.half_open = False
            await self._break_all()
        await self.start()

    async def stop(self) -> None:
        await self.cut()

    async def _break_all(self) -> None:
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self._server is None:  # cut as it was accepted
                return
            up_reader, upstream = await self._connected()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carried(reader, upstream))
                both.create_task(self._carried(up_reader, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._links.discard(link)
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in self._upstreams:
            port = self._upstreams[next(self._turns)]
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_WITHIN_S):
                    return await asyncio.open_connection(HOST, port)
        raise ConnectionRefusedError("no upstream answers")

    async def _carried(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One way, until its end; then the other way ends as well: what we carry has no half-closed connections."""
        on_its_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_MAX)
        async with asyncio.TaskGroup() as both_ends:
            both_ends.create_task(self._delivered(on_its_way, writer))
            data = b"something"
            while data:
                data = await reader.read(CHUNK_BYTES)
                await on_its_way.put((asyncio.get_running_loop().time() + self.delay_s, data))

    async def _delivered(self, on_its_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        """Each chunk when it is due; an empty one is the end."""
        while True:
            due_s, data = await on_its_way.get()
            await asyncio.sleep(due_s - asyncio.get_running_loop().time())
            if self.half_open:
                continue  # nor does anybody learn of an end: it is mended by breaking
            if not data:
                raise ConnectionResetError("one end is closed")
            writer.write(data)
            await writer.drain()
