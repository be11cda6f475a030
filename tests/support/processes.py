"""Real coordinator processes for tests: started, asked over HTTP, killed by pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import orjson

from bus.server import free_port
from runtime.tokens import FACTORY, OPERATOR, mint_token, token_hash
from tests.support.waiting import eventually

PRODUCT = "shop"


class Enrolled:
    """One operator and some factories, with their tokens; `file` is what a coordinator is started with."""

    def __init__(self, directory: Path, factories: Sequence[str] = ("f1", "f2")) -> None:
        self.operator = mint_token(OPERATOR, PRODUCT, "ann")
        self.factories = {name: mint_token(FACTORY, PRODUCT, name) for name in factories}
        self.file = directory / "enrolments.json"
        operator = {"id": "ann", "productId": PRODUCT, "tokenHash": token_hash(self.operator)}
        rows = [
            {"id": name, "productId": PRODUCT, "products": [PRODUCT], "tokenHash": token_hash(token)}
            for name, token in self.factories.items()
        ]
        self.file.write_bytes(orjson.dumps({"operators": [operator], "factories": rows}))


class CoordinatorProcess:
    """`arguments` beyond --data, --listen and --enrolments; its log is `log`."""

    def __init__(
        self,
        directory: Path,
        enrolled: Enrolled,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        name: str = "c",
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / f"{name}.log"
        self.enrolled = enrolled
        self._argv = [
            *(sys.executable, "-m", "coordinator"),
            *("--data", str(directory / "data"), "--listen", f"127.0.0.1:{self.port}"),
            *("--enrolments", str(enrolled.file)),
            *arguments,
        ]
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self._spawn()

        async def answers() -> bool:
            try:
                async with httpx.AsyncClient(trust_env=False) as client:
                    return (await client.get(f"{self.url}/healthz")).is_success
            except httpx.HTTPError:
                return False

        await eventually(answers, within_s=30.0)

    def _spawn(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(self._argv, stdout=output, stderr=output, env=self._env)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()

    async def ask(self, method: str, path: str, token: str, timeout_s: float = 30.0, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}", "x-product-id": PRODUCT, **options.pop("headers", {})}
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=timeout_s) as client:
            return await client.request(method, path, headers=headers, **options)

    async def submit(self, manifest: bytes, key: str) -> dict[str, Any]:
        headers = {"Idempotency-Key": key, "content-type": "text/markdown"}
        answer = await self.ask("POST", "/api/fleet/jobs", self.enrolled.operator, content=manifest, headers=headers)
        assert answer.is_success, answer.text
        job: dict[str, Any] = answer.json()["job"]
        return job

    async def history(self, job_id: str) -> list[dict[str, Any]]:
        answer = await self.ask("GET", f"/api/fleet/jobs/{job_id}/events?limit=500", self.enrolled.operator)
        events: list[dict[str, Any]] = answer.json()["events"]
        return events
