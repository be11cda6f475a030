"""The same requests over REST."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from factory.link.port import Unanswered
from schemas.errors import ERRORS, ErrorCode, FleetError
from schemas.messages import LogChunk

PATHS = {
    "hello": ("POST", "/api/fleet/factories/hello"),
    "heartbeat": ("POST", "/api/fleet/factories/heartbeat"),
    "claim": ("POST", "/api/fleet/claim"),
    "start": ("PATCH", "/api/fleet/jobs/{jobId}"),
    "checkpoint": ("PATCH", "/api/fleet/jobs/{jobId}"),
    "report": ("PATCH", "/api/fleet/jobs/{jobId}"),
    "renew": ("POST", "/api/fleet/jobs/{jobId}/lease/renew"),
    "release": ("POST", "/api/fleet/jobs/{jobId}/lease/release"),
}
TERM_OPS = frozenset({"start", "checkpoint", "report", "renew", "release"})
CHECKPOINT_FIELDS = ("number", "ref", "commit", "local")


class RestLink:
    """`timeout_s` bounds a call beyond what it asks to wait for itself (`waitS`)."""

    def __init__(self, url: str, token: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16),
            trust_env=False,
        )

    @property
    def connected(self) -> bool:
        """Nobody knows before asking."""
        return True

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, op: str, message: dict[str, Any]) -> dict[str, Any]:
        method, path = PATHS[op]
        body = dict(message)
        headers = {}
        if op in TERM_OPS:
            headers["x-product-id"] = str(message["productId"])
            path = path.format(jobId=message["jobId"])
        if op == "start":
            body["stage"] = "building"
        if op == "checkpoint":
            body["checkpoint"] = {name: body.pop(name) for name in CHECKPOINT_FIELDS if name in body}
        return await self._send(method, path, body, headers, float(message.get("waitS") or 0) + self._timeout_s)

    async def send_log(self, chunk: LogChunk) -> int:
        """How many bytes of the log were heard. A coordinator of an older release does not say: then all were."""
        path = f"/api/fleet/jobs/{chunk.job_id}/logs"
        headers = {"x-product-id": chunk.product_id}
        answer = await self._send("POST", path, chunk.to_doc(), headers, self._timeout_s)
        return int(answer.get("heard", chunk.offset + len(chunk.text.encode())))

    async def ended_jobs(self, job_ids: Sequence[str], for_s: float) -> Sequence[str]:
        """Those that have been over for so long. Raises Unanswered, and FleetError (an older coordinator)."""
        body = {"jobIds": list(job_ids), "forS": for_s}
        answer = await self._send("POST", "/api/fleet/factories/ended-jobs", body, {}, self._timeout_s)
        return [str(job_id) for job_id in answer.get("jobIds", ())]

    async def _send(
        self, method: str, path: str, body: dict[str, Any], headers: dict[str, str], timeout_s: float
    ) -> dict[str, Any]:
        try:
            response = await self._http.request(method, path, json=body, headers=headers, timeout=timeout_s)
        except httpx.HTTPError as error:
            raise Unanswered(f"{type(error).__name__}: {error}") from error
        if not response.is_success:
            raise _refusal(response)
        try:
            return dict(response.json()) if response.content else {}
        except (ValueError, TypeError) as error:
            raise Unanswered(f"HTTP {response.status_code} that is no answer of a coordinator") from error


def _refusal(response: httpx.Response) -> Exception:
    try:
        problem = response.json()
        code = ErrorCode(problem["code"])
    except (ValueError, KeyError, TypeError):
        return Unanswered(f"HTTP {response.status_code} that is no answer of a coordinator")
    if not ERRORS[code].definite:
        return Unanswered(str(problem.get("detail")))
    return FleetError(code, str(problem.get("detail", "")), **dict(problem.get("extra") or {}))
