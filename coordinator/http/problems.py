"""Errors as RFC 9457 problem documents, each with its stable code; and the bound on what a request may carry."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.store.port import StoreError
from schemas.base import validation_sentence
from schemas.errors import ERRORS, ErrorCode, FleetError

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 2 * 1024 * 1024
OF_STATUS = {401: ErrorCode.UNAUTHORIZED, 403: ErrorCode.FORBIDDEN, 404: ErrorCode.NOT_FOUND}


class Problem(BaseModel):
    """RFC 9457, with the fleet's stable `code`; `definite` false means: ask again with the same key to learn."""

    type: str
    title: str
    status: int
    detail: str
    code: ErrorCode
    definite: bool
    extra: dict[str, Any] = {}


def problem(error: FleetError, status: int | None = None, headers: Mapping[str, str] | None = None) -> Response:
    spec = ERRORS[error.code]
    body = Problem(
        type=f"urn:gigafactory:error:{error.code}",
        title=spec.title,
        status=status or spec.status,
        detail=error.message,
        code=error.code,
        definite=spec.definite,
        extra=error.detail,
    )
    sent = dict(headers or {})
    if error.code is ErrorCode.UNAUTHORIZED:
        sent["WWW-Authenticate"] = "Bearer"
    if error.code is ErrorCode.UNAVAILABLE:
        sent["Retry-After"] = "1"
    return Response(orjson.dumps(body.model_dump(), default=str), body.status, sent, "application/problem+json")


class BodyLimit:
    """Refuses a request body above the bound while it arrives, whatever its headers promise."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0
        answered = False

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > BODY_BYTES_MAX:
                raise _TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            if received <= BODY_BYTES_MAX:  # else what the application makes of the break is not the answer
                answered = True
                await send(message)

        with contextlib.suppress(_TooLarge):
            await self._app(scope, bounded, watched)
        if received > BODY_BYTES_MAX and not answered:
            sentence = f"the request has more than {BODY_BYTES_MAX} bytes; allowed are {BODY_BYTES_MAX}"
            refusal = problem(
                FleetError(ErrorCode.TOO_LARGE, sentence, allowed=BODY_BYTES_MAX), headers={"Connection": "close"}
            )
            await refusal(scope, receive, send)


class _TooLarge(Exception):
    """Breaks the reading off."""


def _found(first: Mapping[str, Any]) -> str:
    """The first thing that is wrong with a request: where, what is allowed, what was found."""
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        return f"{place}: this is no JSON: {first.get('ctx', {}).get('error', first['msg'])}"
    if first["type"] == "missing":
        return f"{place}: found nothing; it is required"
    return f"{place}: {first['msg']} (found {str(first.get('input'))[:80]!r})"


def install(app: FastAPI) -> None:
    app.add_middleware(BodyLimit)

    @app.exception_handler(FleetError)
    async def on_fleet_error(request: Request, error: FleetError) -> Response:
        return problem(error)

    @app.exception_handler(RequestValidationError)
    async def on_bad_request(request: Request, error: RequestValidationError) -> Response:
        return problem(FleetError(ErrorCode.INVALID_REQUEST, _found(error.errors()[0])))

    @app.exception_handler(ValidationError)
    async def on_bad_message(request: Request, error: ValidationError) -> Response:
        return problem(FleetError(ErrorCode.INVALID_REQUEST, validation_sentence(error)))

    @app.exception_handler(StoreError)
    async def on_store_error(request: Request, error: StoreError) -> Response:
        return problem(FleetError(ErrorCode.UNAVAILABLE, f"the store did not answer: {error}"))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        code = OF_STATUS.get(error.status_code, ErrorCode.INVALID_REQUEST)
        status = error.status_code if error.status_code in (404, 405) else None
        return problem(FleetError(code, f"{request.method} {request.url.path}: {error.detail}"), status, error.headers)

    @app.exception_handler(Exception)
    async def on_mistake(request: Request, error: Exception) -> Response:
        log.exception("%s %s failed", request.method, request.url.path)
        return problem(FleetError(ErrorCode.INTERNAL, "the coordinator made a mistake; its log tells more"))
