"""A real coordinator process with several tenants, for tests that are not async themselves: started, asked, ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson

from runtime.tokens import FACTORY, OPERATOR, mint_token, token_hash

POLL_S = 0.01
LISTENING = re.compile(r"listening on (http://\S+)")
PLAIN_ENV = {  # nothing of the machine's own fleet or proxy settings
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("AQ_", "FLEET_", "COSMOS_")) and not name.lower().endswith("_proxy")
}


def until(predicate: Callable[[], Any], within_s: float = 20.0, what: str = "it") -> Any:
    """The first true answer of the predicate; fails the test if there is none."""
    deadline_s = time.monotonic() + within_s
    while not (answer := predicate()):
        assert time.monotonic() < deadline_s, f"{what} did not come true within {within_s} s"
        time.sleep(POLL_S)
    return answer


class Tenants:
    """Products by name, each with the operator `ann` and the factories that are asked for."""

    def __init__(self) -> None:
        self.operators: dict[str, str] = {}
        self.factories: dict[str, str] = {}
        self._rows: list[dict[str, Any]] = []

    def product(self, product_id: str, factories: Sequence[str] = (), capabilities: Sequence[str] = ()) -> None:
        self.operators[product_id] = mint_token(OPERATOR, product_id, "ann")
        for name in factories:
            self.factories[name] = mint_token(FACTORY, product_id, name)
            self._rows.append(
                {
                    "id": name,
                    "productId": product_id,
                    "products": [product_id],
                    "capabilities": list(capabilities),
                    "tokenHash": token_hash(self.factories[name]),
                }
            )

    def write(self, path: Path) -> Path:
        operators = [
            {"id": "ann", "productId": name, "products": [name], "tokenHash": token_hash(token)}
            for name, token in self.operators.items()
        ]
        path.write_bytes(orjson.dumps({"operators": operators, "factories": self._rows}))
        return path


class Service:
    """`python -m coordinator` on a free port. `arguments` come on top of --data, --listen and --enrolments."""

    def __init__(
        self, directory: Path, tenants: Tenants, *arguments: str, env: Mapping[str, str] | None = None
    ) -> None:
        self.data = directory / "data"
        self.log = directory / "coordinator.log"
        self.tenants = tenants
        self.url = ""
        self._listen = "127.0.0.1:0"
        self._arguments = arguments
        self._enrolments = tenants.write(directory / "enrolments.json")
        self._env = {**PLAIN_ENV, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[httpx.Client] = []

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.poll() if self._process is not None else None

    def launch(self) -> None:
        """Starts it and waits for nothing."""
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "coordinator", "--data", str(self.data)),
                    *("--listen", self._listen, "--enrolments", str(self._enrolments)),
                    *self._arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._env,
            )

    def start(self) -> None:
        """Returns when it answers. Started again, it listens on the same port."""
        self.launch()

        def listening() -> re.Match[str] | None:
            assert self.exit_code is None, f"it ended with {self.exit_code}: {self.said()}"
            return LISTENING.search(self.said())

        self.url = until(listening, 30.0, "listening")[1]
        self._listen = self.url.removeprefix("http://")
        until(self._answers, 30.0, "an answer")

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self, within_s: float = 20.0) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(within_s)

    def end(self) -> None:
        """However the test went."""
        for client in self._clients:
            client.close()
        if self._process is None or self._process.poll() is not None:
            return
        try:
            self.terminate()
        except subprocess.TimeoutExpired:
            self.kill()

    def client(self, token: str, product_id: str | None = None, timeout_s: float = 30.0) -> httpx.Client:
        """Closed with the service."""
        headers = {"Authorization": f"Bearer {token}"}
        if product_id is not None:
            headers["x-product-id"] = product_id
        self._clients.append(httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, trust_env=False))
        return self._clients[-1]

    def operator(self, product_id: str) -> Operator:
        return Operator(self.client(self.tenants.operators[product_id], product_id))

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2.0, trust_env=False).is_success
        except httpx.HTTPError:
            return False


class Operator:
    """What tests ask most, as one product's operator."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def submit(self, manifest: bytes, key: str | None = None) -> dict[str, Any]:
        headers = {"content-type": "text/markdown"} | ({"Idempotency-Key": key} if key else {})
        answer = self.http.post("/api/fleet/jobs", content=manifest, headers=headers)
        assert answer.is_success, answer.text
        job: dict[str, Any] = answer.json()["job"]
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.http.get(f"/api/fleet/jobs/{job_id}").json()["job"]
        return job

    def history(self, job_id: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self.http.get(f"/api/fleet/jobs/{job_id}/events?limit=500").json()["events"]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1)), "the history has a gap"
        return events

    def act(self, job_id: str, action: str, **body: Any) -> httpx.Response:
        return self.http.post(f"/api/fleet/jobs/{job_id}/actions/{action}", json=body)


@contextmanager
def serving(
    directory: Path, tenants: Tenants, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[Service]:
    service = Service(directory, tenants, *arguments, env=env)
    try:
        service.start()
        yield service
    finally:
        service.end()
