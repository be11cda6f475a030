"""The operator of a live fleet: hands in work over HTTP and insists until there is an answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from chaos.live.engines import EngineWatch
from chaos.recording import AskRecorder, Message, Note
from factory.link.port import Unanswered
from schemas.errors import ERRORS, ErrorCode, FleetError
from schemas.manifest import parse_manifest

AGAIN_S = 0.3
TIMEOUT_S = 5.0
PAGE = 200
WHO = "operator:operator"


class LiveOperator:
    def __init__(self, url: str, headers: dict[str, str], product_id: str, note: Note) -> None:
        self.acknowledged: dict[str, str] = {}  # job by key
        self._product_id = product_id
        self._ask_recorder = AskRecorder(note, prefix="operator/")
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    async def close(self) -> None:
        await self._http.aclose()

    async def submits(self, key: str, raw: bytes) -> None:
        message = {"productId": self._product_id, "idempotencyKey": key, "manifestSha256": parse_manifest(raw).sha256}

        async def call() -> Message:
            headers = {"content-type": "text/markdown", "Idempotency-Key": key}
            answer = await self._asked("POST", "/api/fleet/jobs", content=raw, headers=headers)
            job = answer["job"]
            return {"jobId": job["id"], "stage": job["stage"], "opId": key, "repeated": answer["repeated"]}

        self.acknowledged[key] = (await self._insists("submit", message, call))["jobId"]

    async def jobs(self) -> list[dict[str, Any]]:
        """All of the product. Raises Unanswered."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            params = {"limit": str(PAGE)} | ({"cursor": cursor} if cursor else {})
            page = await self._asked("GET", "/api/fleet/jobs", params=params)
            found += page["jobs"]
            cursor = page.get("nextCursor")
            if cursor is None:
                return found

    async def _insists(self, op: str, message: Message, call: Callable[[], Awaitable[Message]]) -> Message:
        while True:
            try:
                return await self._ask_recorder.noted(WHO, op, "rest", message, call)
            except Unanswered:
                await asyncio.sleep(AGAIN_S)

    async def _asked(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            response = await self._http.request(method, path, **options)
            doc = dict(response.json())
        except (httpx.HTTPError, ValueError, TypeError) as error:
            raise Unanswered(repr(error)) from error
        if response.is_success:
            return doc
        code = ErrorCode(doc.get("code", ErrorCode.INTERNAL))
        if not ERRORS[code].definite:
            raise Unanswered(str(doc.get("detail")))
        raise FleetError(code, str(doc.get("detail")))


class Work:
    """Jobs of many kinds from a seed. `repo`: which those that change files work on."""

    def __init__(self, operator: LiveOperator, engines: EngineWatch, repo: str, capability: str, seed: int) -> None:
        self._operator = operator
        self._engines = engines
        self._repo = repo
        self._capability = capability
        self._chance = random.Random(f"work {seed}")
        self._keys: list[str] = []

    async def flows(self, jobs: int, every_s: float) -> None:
        """Hands in so many, one after the other."""
        for _ in range(jobs):
            await asyncio.gather(self.hands_in(self._any()), asyncio.sleep(every_s))

    async def hands_in(self, manifest: bytes) -> str:
        """Gives the job's id."""
        key = f"k{len(self._keys)}"
        self._keys.append(key)
        await self._operator.submits(key, manifest)
        return self._operator.acknowledged[key]

    def long(self, seconds: float) -> bytes:
        """Changes files all the while, so that there is something to go on from."""
        steps = max(1, round(seconds / 0.5))
        return self.job(
            f"for n in $(seq {steps}); do echo $n >> steps; sleep 0.5; done",
            repo=f'"{self._repo}"',
            priority="critical",
        )

    def quick(self, **front: Any) -> bytes:
        return self.job("true", **front)

    def _any(self) -> bytes:
        chance = self._chance
        front: dict[str, Any] = {"priority": chance.choice(("critical", "high", "normal", "normal", "low"))}
        if chance.random() < 0.15:
            front["lock"] = chance.choice(("deploy", "schema"))
        if chance.random() < 0.15:
            front["capabilities"] = f"[{self._capability}]"
        if self._keys and chance.random() < 0.15:
            front["deps"] = f"[{chance.choice(self._keys[-8:])}]"
        if chance.random() < 0.4:
            return self.job(f"sleep {chance.uniform(0.1, 0.8):.2f}", **front)
        steps = chance.randrange(1, 8)
        work = f"for n in $(seq {steps}); do echo $n >> steps; sleep 0.4; done"
        return self.job(work, repo=f'"{self._repo}"', **front)

    def job(self, work: str, **front: Any) -> bytes:
        """`work`: shell, without single quotes. `front`: more of its front matter."""
        fields = {"engine": "shell", "verify": '"true"', "ship": "auto", **front}
        lines = "".join(f"{name}: {value}\n" for name, value in fields.items())
        return f"---\n{lines}---\n{self._engines.script(work)}".encode()
