"""The REST application over a store in memory and no bus, asked without sockets, so in virtual time too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from bus.none import NoBus
from coordinator.enrolment_file import Enrolments, FactoryEnrolment, OperatorEnrolment, apply
from coordinator.http.app import make_app
from coordinator.store.memory import MemoryStore
from coordinator.store.port import JOBS, Query, Store
from runtime.tokens import FACTORY, OPERATOR, mint_token, token_hash
from tests.support.fleet import PRODUCT, assembled_coordinator, manifest

BANK = "bank"  # another tenant
SHELL: dict[str, Any] = {"engines": ["shell"], "max": 1}


class RestWorld:
    """`ann` operates PRODUCT, `bob` BANK, `root` everything; f1 and f2 serve PRODUCT, b1 serves BANK, x1 both."""

    def __init__(self, logs: Path, store: Store | None = None, *, budgets: bool = False, alone: bool = True) -> None:
        self.store = store or MemoryStore()
        self.bus = NoBus()
        made = assembled_coordinator(self.store, seed=7, budgets=budgets, bus=self.bus, logs=logs, alone=alone)
        self.ctx, self.watchers = made.ctx, made.ctx.watchers
        self.app: FastAPI = make_app(made.ctx, made.metrics)
        self.ann, self.bob, self.root = (
            mint_token(OPERATOR, home, name) for home, name in ((PRODUCT, "ann"), (BANK, "bob"), (PRODUCT, "root"))
        )
        self.f1, self.f2, self.x1 = (mint_token(FACTORY, PRODUCT, name) for name in ("f1", "f2", "x1"))
        self.b1 = mint_token(FACTORY, BANK, "b1")

    async def enrolled(self) -> RestWorld:
        def operator(name: str, home: str, token: str, *products: str) -> OperatorEnrolment:
            return OperatorEnrolment(id=name, product_id=home, token_hash=token_hash(token), products=products)

        def factory(name: str, token: str, *products: str) -> FactoryEnrolment:
            return FactoryEnrolment(
                id=name,
                product_id=products[0],
                products=products,
                capabilities=("python",),
                token_hash=token_hash(token),
            )

        await apply(
            self.ctx,
            Enrolments(
                operators=(
                    operator("ann", PRODUCT, self.ann, PRODUCT),
                    operator("bob", BANK, self.bob, BANK),
                    operator("root", PRODUCT, self.root),
                ),
                factories=(
                    factory("f1", self.f1, PRODUCT),
                    factory("f2", self.f2, PRODUCT),
                    factory("b1", self.b1, BANK),
                    factory("x1", self.x1, PRODUCT, BANK),
                ),
            ),
        )
        return self

    async def ask(
        self, method: str, path: str, token: str | None, *, product: str | None = None, **options: Any
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        if product is not None:
            headers["x-product-id"] = product
        headers |= options.pop("headers", {})
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=options.pop("raises", True))
        async with httpx.AsyncClient(transport=transport, base_url="http://fleet") as client:
            return await client.request(method, path, headers=headers, **options)

    async def get(self, path: str, token: str | None, **options: Any) -> httpx.Response:
        return await self.ask("GET", f"/api/fleet{path}", token, **options)

    async def post(self, path: str, token: str | None, **options: Any) -> httpx.Response:
        return await self.ask("POST", f"/api/fleet{path}", token, **options)

    async def patch(self, job_id: str, token: str | None, body: Any, **options: Any) -> httpx.Response:
        return await self.ask("PATCH", f"/api/fleet/jobs/{job_id}", token, json=body, **options)

    async def submit(self, raw: bytes | None = None, *, key: str | None = None, **options: Any) -> httpx.Response:
        headers = {"content-type": "text/markdown"} | ({"Idempotency-Key": key} if key is not None else {})
        headers |= options.pop("headers", {})
        token = options.pop("token", self.ann)
        return await self.post("/jobs", token, content=manifest() if raw is None else raw, headers=headers, **options)

    async def submitted(self, key: str = "one", **keys: Any) -> str:
        """A new job's id."""
        answer = await self.submit(manifest(**keys), key=key)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["job"]["id"])

    async def claimed(self, token: str | None = None, request_id: str = "r1", **fields: Any) -> dict[str, Any]:
        answer = await self.post("/claim", token or self.f1, json={**SHELL, "requestId": request_id, **fields})
        assert answer.status_code == 200, answer.text
        (grant,) = answer.json()["grants"]
        return dict(grant)

    async def job(self, job_id: str, token: str | None = None) -> dict[str, Any]:
        answer = await self.get(f"/jobs/{job_id}", token or self.ann)
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["job"])

    async def reviewed(self, key: str = "one", **keys: Any) -> str:
        """A job whose holder has reported ok: it waits for review, or for whatever the manifest asks."""
        job_id = await self.submitted(key, **keys)
        grant = await self.claimed(request_id=f"of-{key}", jobId=job_id)
        body = {"leaseEpoch": grant["leaseEpoch"], "result": {"outcome": "ok"}}
        assert (await self.patch(job_id, self.f1, body)).status_code == 200
        return job_id

    async def everything(self) -> list[Any]:
        """All job documents and guards of both products, to see that nothing was left half done."""
        return [await self.store.query(Query(JOBS, product, limit=1000)) for product in (PRODUCT, BANK)]

    @asynccontextmanager
    async def streamed(self, path: str, token: str, **headers: str) -> AsyncIterator[Stream]:
        stream = Stream(self.app, path, {"authorization": f"Bearer {token}", **headers})
        try:
            yield stream
        finally:
            await stream.hang_up()


class Stream:
    """A GET that is answered bit by bit."""

    def __init__(
        self, app: FastAPI, path: str, headers: dict[str, str], method: str = "GET", body: bytes = b""
    ) -> None:
        bare, _, query = path.partition("?")
        self.status: int | None = None
        self.text = ""
        self._sent_body = False
        self._body = body
        self._gone = asyncio.Event()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": bare,
            "raw_path": bare.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("fleet", 80),
        }
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        if not self._sent_body:
            self._sent_body = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif not self._gone.is_set():
            self.text += message.get("body", b"").decode()

    def events(self) -> list[tuple[str, str]]:
        """(event, id) of what came so far, keep-alives left out."""
        found = []
        for block in self.text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if fields:
                found.append((fields["event"], fields.get("id", "")))
        return found

    async def hang_up(self) -> None:
        self._gone.set()
        await asyncio.wait_for(self.task, 60)


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document, after seeing that it is one of this status and code."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "code", "definite", "extra"}
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert problem["type"] == f"urn:gigafactory:error:{code}"
    assert problem["title"]
    assert problem["detail"]
    return problem
