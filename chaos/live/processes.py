"""Coordinators and factories as processes: started, stopped, killed with real signals, and all of it written down."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Protocol

import httpx

from bus.server import HOST, free_port
from chaos.live.proxy import TcpProxy
from chaos.recording import Note
from deploy.local.fleet import Child
from deploy.local.secrets import Member
from factory.main import EXIT_FENCED

READY_WITHIN_S = 60.0
LOOK_S = 0.02


class LiveError(Exception):
    """Why a run could not be brought about, in a sentence."""


class ProcessHost(Protocol):
    """What processes stand on. `next_life`: a number that no other process of the run has."""

    note: Note

    def next_life(self) -> int: ...

    def coordinator_child(self, node: LiveCoordinator) -> Child: ...

    def factory_child(self, machines: list[LiveMachine], name: str, *, takeover: bool = False) -> Child: ...


class LiveCoordinator:
    """One coordinator through its lives. `max_pages`: of SQLite, how many it may fill from its next start on."""

    def __init__(self, ground: ProcessHost, number: int) -> None:
        self.id = f"c{number}"
        self.port = free_port()
        self.bus_link: TcpProxy | None = None
        self.store_link: TcpProxy | None = None
        self.max_pages: int | None = None
        self.life = 0
        self.up = False
        self._ground = ground
        self._child: Child | None = None

    @property
    def who(self) -> str:
        return f"coordinator:{self.id}"

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    async def start(self) -> None:
        """Until it answers; one that ends at once is started again, as a service manager would."""
        self.life = self._ground.next_life()
        deadline_s = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline_s:
            if self._child is None or self._child.exit_code is not None:
                self._child = self._ground.coordinator_child(self)
                self._child.start()
            if await self._answers():
                self.up = True
                self._ground.note("up", self.who, life=self.life)
                return
            await asyncio.sleep(LOOK_S)
        assert self._child is not None
        raise LiveError(f"{self.id} does not answer: {self._child.last_words()}")

    async def _answers(self) -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=1.0) as client:
                return (await client.get(f"http://{HOST}:{self.port}/healthz")).is_success
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        assert self._child is not None
        self.up = False
        self._child.signal(signal.SIGKILL)
        self._child.wait(5.0)
        self._ground.note("down", self.who, life=self.life, how="killed")

    def look(self) -> None:
        """Notes an end that it came to by itself."""
        if self.up and self._child is not None and self._child.exit_code is not None:
            self.up = False
            self._ground.note("down", self.who, life=self.life, how="ended")

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        self._ground.note("paused", self.who, life=self.life)

    def resume(self) -> None:
        self._ground.note("resumed", self.who, life=self.life)
        os.kill(self.pid, signal.SIGCONT)

    async def end(self) -> None:
        """Unrecorded: the run is over."""
        if self._child is not None and self._child.exit_code is None:
            self._child.signal(signal.SIGCONT)
            self._child.signal(signal.SIGTERM)
            await asyncio.to_thread(self._child.wait, 10.0)


class LiveMachine:
    """One factory's machine and its processes, one after the other. `where`: another machine with the same identity."""

    def __init__(self, ground: ProcessHost, member: Member, where: str = "") -> None:
        self.member = member
        self.where = where
        self.bus_link: TcpProxy | None = None
        self.rest_link: TcpProxy | None = None
        self.life = 0
        self.up = False
        self.stopped = False
        self._ground = ground
        self._child: Child | None = None

    @property
    def id(self) -> str:
        return self.member.id

    @property
    def who(self) -> str:
        return f"factory:{self.id}"

    def start(self, *, takeover: bool = False) -> None:
        self.life = self._ground.next_life()
        self._child = self._ground.factory_child([self], f"{self.id}{self.where}-{self.life}", takeover=takeover)
        self._child.start()
        self.up = True

    def kill(self) -> None:
        assert self._child is not None
        self.up = self.stopped = False
        self._child.signal(signal.SIGKILL)
        self._child.wait(5.0)
        self._ground.note("down", self.who, life=self.life, how="killed")

    def pause(self) -> None:
        assert self._child is not None
        os.kill(self._child.pid, signal.SIGSTOP)
        self.stopped = True
        self._ground.note("paused", self.who, life=self.life)

    def resume(self) -> None:
        assert self._child is not None
        self.stopped = False
        self._ground.note("resumed", self.who, life=self.life)
        self._child.signal(signal.SIGCONT)

    def drain(self) -> None:
        assert self._child is not None
        self._child.signal(signal.SIGTERM)

    def look(self) -> None:
        """Notes an end that it came to by itself."""
        if self.up and self._child is not None and self._child.exit_code is not None:
            self.up = False
            how = {0: "drained", EXIT_FENCED: "fenced"}.get(self._child.exit_code, "ended")
            self._ground.note("down", self.who, life=self.life, how=how)

    def end(self) -> None:
        """Unrecorded: the run is over."""
        if self._child is not None and self._child.exit_code is None:
            self._child.signal(signal.SIGKILL)
            self._child.wait(5.0)
