"""The requests for work that are under way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from factory.session import Session
from schemas.messages import NextRequest


class Asks:
    """Every ask for work that is under way. Under each requestId there may be a grant, so that it occupies a seat."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pending: set[str] = set()
        self._along: set[str] = set()
        self._settled = asyncio.Event()
        self._closed = False
        self.is_paused = False  # for as long as this machine is unfit for work

    @property
    def is_closed(self) -> bool:
        """Whether no new ask may begin."""
        return self._closed or self.is_paused

    @property
    def pending(self) -> tuple[str, ...]:
        """Their requestIds, for a heartbeat to name."""
        return tuple(sorted(self._pending | self._along))

    def __len__(self) -> int:
        return len(self._pending)

    def close(self) -> None:
        """No more asks; those that are under way are waited for by a drain."""
        self._closed = True

    def begin(self) -> str:
        """The requestId of a new ask. A heartbeat that is numbered above it names it."""
        request_id = self._session.request_id()
        self._pending.add(request_id)
        return request_id

    def end(self, request_id: str) -> None:
        """It is answered, or given up."""
        self._pending.discard(request_id)
        self._settled.set()

    @contextlib.contextmanager
    def along_with_a_report(self) -> Iterator[NextRequest | None]:
        """The ask for the next job in the round trip of a report, for the seat that the report frees. None once no more
        is asked for.
        """
        if self.is_closed:
            yield None
            return
        request_id = self._session.request_id()
        self._along.add(request_id)
        try:
            yield NextRequest(request_id=request_id)
        finally:
            self._along.discard(request_id)

    async def settled(self) -> None:
        """Returns when none is under way any more."""
        while self._pending:
            self._settled.clear()
            await self._settled.wait()
