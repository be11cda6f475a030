"""A TCP proxy that breaks links as networks do: cut, slow, or half open. With several upstreams it is a balancer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence

HOST = "127.0.0.1"
CHUNK_BYTES = 64 * 1024
CONNECT_WITHIN_S = 5.0
BACKLOG = 1024


class TcpProxy:
    """`delay_s`: each chunk arrives so much later, either way, in order. `half_open`: connections stand, new ones too,
    and nothing that is sent arrives any more; what was held back is lost with its connection.

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
            up_reader, upstream = await self._connected()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._copied(reader, upstream))
                both.create_task(self._copied(up_reader, writer))
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

    async def _copied(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One way, until its end; then the other way ends as well: what we carry has no half-closed connections."""
        while data := await reader.read(CHUNK_BYTES):
            if self.half_open:
                continue
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError("one end is closed")
