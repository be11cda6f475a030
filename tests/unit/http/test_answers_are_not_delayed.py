"""Small answers leave at once: each accepted connection has TCP_NODELAY, or Nagle's algorithm holds them back."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from coordinator.main import Settings, StoreKind, listen_on, serve

ROOT = Path(__file__).parents[3]
LOOPBACKS = ("127.0.0.1", "[::1]")


@pytest.mark.parametrize("host", LOOPBACKS)
async def test_a_connection_to_the_service_is_not_delayed(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted: list[int] = []
    connected = H11Protocol.connection_made

    def noting(self: H11Protocol, transport: asyncio.Transport) -> None:
        accepted.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        connected(self, transport)

    monkeypatch.setattr(H11Protocol, "connection_made", noting)
    with listen_on(f"{host}:0") as free:
        port = free.getsockname()[1]
    serving = asyncio.create_task(serve(Settings(tmp_path, StoreKind.MEMORY, f"{host}:{port}")))
    async with httpx.AsyncClient(trust_env=False, transport=httpx.AsyncHTTPTransport(retries=20)) as client:
        assert (await client.get(f"http://{host}:{port}/healthz")).is_success
    os.kill(os.getpid(), signal.SIGTERM)
    await serving
    assert accepted
    assert all(accepted)


def test_there_is_no_other_way_to_start_the_service() -> None:
    named = subprocess.run(
        ["git", "grep", "-l", "uvicorn", "--", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert [name for name in named if not name.startswith("tests/")] == ["coordinator/main.py"]
