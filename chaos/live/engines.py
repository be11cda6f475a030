"""Sees real engines live and die: each holds a connection open, which ends with the last of its processes."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from chaos.live.proxy import HOST
from chaos.recording import Note

HELLO_FIELDS = 6

# Every process that the script starts inherits descriptor 3, so the connection lasts as long as any of them.
_SCRIPT = """```sh
exec bash -c 'exec 3<>/dev/tcp/{host}/{port}
printf "%s %s %s %s %s %s\\n" "$CHAOS_FACTORY" "$CHAOS_LIFE" "$CHAOS_SESSION" "$GIGAFACTORY_JOB" \\
    "$GIGAFACTORY_EPOCH" {product} >&3
{work}'
```
"""


class EngineWatch:
    """`script` is the body of a job whose engine is seen."""

    def __init__(self, note: Note, product_id: str) -> None:
        self._note = note
        self._product_id = product_id
        self._server: asyncio.Server | None = None
        self._seen: set[asyncio.Task[None]] = set()
        self._terms: dict[str, set[int]] = {}
        self.running: dict[tuple[str, str], int] = {}  # how many, by factory and job

    def holders(self, jobs: Collection[str] | None) -> set[str]:
        """The factories in which an engine runs now, of these jobs or of any."""
        running = (key for key, count in self.running.items() if count)
        return {factory for factory, job_id in running if jobs is None or job_id in jobs}

    def terms_of(self, job_id: str) -> set[int]:
        """In which terms an engine of it was seen to begin."""
        return self._terms.get(job_id, set())

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._watch, HOST, 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._seen:
            task.cancel()
        await asyncio.gather(*self._seen, return_exceptions=True)

    def script(self, work: str) -> str:
        """`work`: shell, without single quotes."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return _SCRIPT.format(host=HOST, port=port, product=self._product_id, work=work)

    async def _watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._seen.add(task)
        try:
            fields = (await reader.readline()).decode().split()
            if len(fields) != HELLO_FIELDS:
                return
            factory, life, session, job_id, epoch, product = fields
            about = {
                "life": int(life),
                "sessionId": session,
                "productId": product,
                "jobId": job_id,
                "leaseEpoch": int(epoch),
            }
            self._note("engine", f"factory:{factory}", does="begins", **about)
            self._terms.setdefault(job_id, set()).add(int(epoch))
            key = factory, job_id
            self.running[key] = self.running.get(key, 0) + 1
            try:
                while await reader.read(1024):
                    pass
            except ConnectionError:
                pass
            finally:
                self.running[key] -= 1
                self._note("engine", f"factory:{factory}", does="ends", **about)
        finally:
            self._seen.discard(task)
            writer.close()
