"""The command line against a real coordinator, as a person or a script runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tests.support.service import PLAIN_ENV, Service

REFUSED, USAGE, UNREACHABLE = 1, 2, 3


def hears_ctrl_c() -> None:
    """Tests that are run in the background ignore SIGINT, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Shell:
    """The command line as run in a directory of its own."""

    directory: Path
    url: str
    token: str
    product: str
    begun: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def env(self) -> dict[str, str]:
        own = {"AQ_FLEET_API": self.url, "AQ_FLEET_TOKEN": self.token, "AQ_PRODUCT_ID": self.product}
        return {**PLAIN_ENV, **own, "COLUMNS": "200"}

    def __call__(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "console.cli", *arguments],
            cwd=self.directory,
            env=self.env(),
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *arguments: str, stdin: bytes = b"") -> str:
        done = self(*arguments, stdin=stdin)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return orjson.loads(self.ok(*arguments, "--json"))

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / "out").open("wb") as out, (self.directory / "errors").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "console.cli", *arguments],
                cwd=self.directory,
                env={**self.env(), "PYTHONUNBUFFERED": "1"},
                stdout=out,
                stderr=errors,
                preexec_fn=hears_ctrl_c,
            )
        self.begun.append(process)
        return process

    def end(self) -> None:
        """However the test went."""
        for process in self.begun:
            process.kill()
            process.wait()

    def out(self) -> str:
        """What the process begun last has said so far."""
        return (self.directory / "out").read_text()

    def errors(self) -> str:
        return (self.directory / "errors").read_text()

    def write(self, name: str, content: bytes) -> str:
        (self.directory / name).parent.mkdir(parents=True, exist_ok=True)
        (self.directory / name).write_bytes(content)
        return name


class Holder:
    """The product's factory, over REST."""

    def __init__(self, service: Service, product: str) -> None:
        self._http = service.client(service.tenants.factories[f"{product}-f"], product)

    def claim(self, job_id: str, request_id: str = "r1") -> dict[str, Any]:
        body = {"requestId": request_id, "jobId": job_id, "engines": ["shell"], "capabilities": ["python"]}
        (grant,) = self._http.post("/api/fleet/claim", json=body).json()["grants"]
        return dict(grant)

    def report(self, grant: dict[str, Any], outcome: str = "ok", **result: Any) -> None:
        body = {"leaseEpoch": grant["leaseEpoch"], "result": {"outcome": outcome, **result}}
        assert self._http.patch(f"/api/fleet/jobs/{grant['jobId']}", json=body).is_success

    def log(self, grant: dict[str, Any], offset: int, text: str) -> None:
        body = {"leaseEpoch": grant["leaseEpoch"], "offset": offset, "text": text}
        assert self._http.post(f"/api/fleet/jobs/{grant['jobId']}/logs", json=body).is_success
