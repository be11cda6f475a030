"""The REST API as operators use it. Every refusal is a FleetError; no answer is CoordinatorUnreachable."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson

from schemas.errors import ErrorCode, FleetError

HOME = Path(".gigafactory")
TIMEOUT_S = 10.0
STREAM_SILENCE_S = 45.0  # three keep-alives
TRIES_MAX = 3
RETRY_PAUSE_S = 0.3


class CoordinatorUnreachable(Exception):
    """No coordinator answered."""


@dataclass(frozen=True)
class Target:
    """Where the fleet is, and the identity to ask with."""

    url: str
    token: str = field(repr=False)
    product_id: str | None


def find_target(url: str | None, token_file: Path | None, product_id: str | None) -> Target:
    """From the options, else the environment, else what `up` left in ./.gigafactory. Raises ValueError."""
    known: dict[str, Any] = {}
    left = HOME / "client.json"
    if left.exists():
        try:
            known = dict(orjson.loads(left.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{left} cannot be read: {error}") from error
    url = url or os.environ.get("AQ_FLEET_API") or known.get("url") or "http://127.0.0.1:8080"
    file = token_file or (Path(known["tokenFile"]) if "tokenFile" in known else None)
    token = os.environ.get("AQ_FLEET_TOKEN") if token_file is None else None
    if token is None and file is not None:
        try:
            token = file.read_text().strip()
        except OSError as error:
            raise ValueError(f"the token file {file} cannot be read: {error.strerror}") from error
    if not token:
        raise ValueError("no token: give --token-file, set AQ_FLEET_TOKEN, or run where `gigafactory up` runs")
    return Target(url.rstrip("/"), token, product_id or os.environ.get("AQ_PRODUCT_ID") or known.get("productId"))


class Client:
    def __init__(self, target: Target) -> None:
        headers = {"Authorization": f"Bearer {target.token}"}
        if target.product_id is not None:
            headers["x-product-id"] = target.product_id
        try:
            self._http = httpx.Client(base_url=target.url, headers=headers, timeout=TIMEOUT_S, trust_env=False)
        except httpx.InvalidURL as error:
            raise ValueError(f"--url {target.url!r}: {error}; write http://HOST:PORT") from error
        except UnicodeEncodeError:
            raise ValueError("the token or the product has characters that none has") from None
        self.url = target.url

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        wanted = {name: value for name, value in params.items() if value is not None}
        return self._sent("GET", path, params=wanted)

    def post(self, path: str, body: Mapping[str, Any], idempotency_key: str | None = None) -> dict[str, Any]:
        """With a key, what was not answered is asked again under it."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return self._sent("POST", path, tries=TRIES_MAX if idempotency_key else 1, json=dict(body), headers=headers)

    def submit(self, manifest: bytes, idempotency_key: str | None) -> dict[str, Any]:
        headers = {"content-type": "text/markdown"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        return self._sent("POST", "/api/fleet/jobs", tries=TRIES_MAX, content=manifest, headers=headers)

    def stream(self, path: str, last_event_id: str | None = None) -> Iterator[tuple[str, dict[str, Any], str | None]]:
        """(event, data, id) until the server closes. Raises CoordinatorUnreachable when it is lost."""
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        try:
            with self._http.stream("GET", path, headers=headers, timeout=STREAM_SILENCE_S) as response:
                if not response.is_success:
                    response.read()
                    raise _refusal(response)
                name, event_id = "message", None
                for line in response.iter_lines():
                    field_name, _, value = line.partition(": ")
                    if field_name == "event":
                        name = value
                    elif field_name == "id":
                        event_id = value
                    elif field_name == "data":
                        yield name, orjson.loads(value), event_id
                        name, event_id = "message", None
        except httpx.HTTPError as error:
            raise CoordinatorUnreachable(f"the stream from {self.url} broke: {error}") from error

    def _sent(self, method: str, path: str, tries: int = TRIES_MAX, **options: Any) -> dict[str, Any]:
        for number in range(tries):
            try:
                response = self._http.request(method, path, **options)
            except httpx.HTTPError as error:
                if number == tries - 1:
                    raise CoordinatorUnreachable(f"no answer from {self.url}: {error}") from error
                time.sleep(RETRY_PAUSE_S)
                continue
            if response.is_success:
                return _answer(response)
            refusal = _refusal(response)
            if not isinstance(refusal, FleetError) or refusal.code is not ErrorCode.UNAVAILABLE or number == tries - 1:
                raise refusal
            time.sleep(RETRY_PAUSE_S)
        raise AssertionError("unreachable: the last try returns or raises")


def _answer(response: httpx.Response) -> dict[str, Any]:
    try:
        return dict(response.json())
    except (ValueError, TypeError):
        raise CoordinatorUnreachable(f"{response.request.url} did not answer as a coordinator does") from None


def _refusal(response: httpx.Response) -> Exception:
    try:
        problem = response.json()
        refusal = FleetError(ErrorCode(problem["code"]), str(problem["detail"]))
        refusal.detail = dict(problem.get("extra") or {})
        return refusal
    except (ValueError, KeyError, TypeError):
        return CoordinatorUnreachable(
            f"{response.request.url} answered HTTP {response.status_code}, which no coordinator does"
        )
