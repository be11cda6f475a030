"""`deploy/examples/fleet-client.sh`, run as a factory of its own."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tests.support.service import PLAIN_ENV, Tenants

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "examples" / "fleet-client.sh"
REFUSED, UNREACHABLE, NOTHING, STOPPED, FENCED = 1, 3, 4, 5, 9
PRODUCTS = [f"p{number}" for number in range(40)]  # one for each test, so that none claims another's job
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Script:
    """The script in a directory of its own."""

    directory: Path
    api: str
    token: str

    def env(self, **more: str) -> dict[str, str]:
        return {**PLAIN_ENV, "AQ_FLEET_API": self.api, "AQ_FLEET_TOKEN": self.token, "AQ_FLEET_RETRY_S": "0.1", **more}

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(SCRIPT), *arguments],
            cwd=self.directory,
            env=self.env(**env),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def begin(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", str(SCRIPT), *arguments],
            cwd=self.directory,
            env=self.env(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ok(self, *arguments: str, **env: str) -> str:
        done = self(*arguments, **env)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout.strip()

    def grant(self) -> dict[str, Any]:
        grant: dict[str, Any] = orjson.loads((self.directory / ".fleet-client/grant.json").read_bytes())["grants"][0]
        return grant


def all_tenants() -> Tenants:
    tenants = Tenants()
    for name in PRODUCTS:
        tenants.product(name, [f"{name}-f"], ["python"])
    return tenants
