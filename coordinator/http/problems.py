"""Errors as RFC 9457 problem documents, each with its stable code; and the bound on what a request may carry."""

from __future__ import annotations

import logging
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


def problem(error: FleetError) -> Response:
    spec = ERRORS[error.code]
    body = Problem(
        type=f"urn:gigafactory:error:{error.code}",
        title=spec.title,
        status=spec.status,
        detail=error.message,
        code=error.code,
        definite=spec.definite,
        extra=error.detail,
    )
    headers = {"WWW-Authenticate": "Bearer"} if spec.status == 401 else {}
    if error.code is ErrorCode.UNAVAILABLE:
        headers["Retry-After"] = "1"
    return Response(orjson.dumps(body.model_dump()), spec.status, headers, "application/problem+json")


class BodyLimit:
    """Refuses a request body above the bound while it arrives, whatever its headers promise."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > BODY_BYTES_MAX:
                raise FleetError(
                    ErrorCode.TOO_LARGE, f"the request has more than {BODY_BYTES_MAX} bytes", allowed=BODY_BYTES_MAX
                )
            return message

        try:
            await self._app(scope, bounded, send)
        except FleetError as error:
            await problem(error)(scope, receive, send)


def install(app: FastAPI) -> None:
    app.add_middleware(BodyLimit)

    @app.exception_handler(FleetError)
    async def on_fleet_error(request: Request, error: FleetError) -> Response:
        return problem(error)

    @app.exception_handler(RequestValidationError)
    async def on_bad_request(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return problem(FleetError(ErrorCode.INVALID_REQUEST, f"{place}: {first['msg']}"))

    @app.exception_handler(ValidationError)
    async def on_bad_message(request: Request, error: ValidationError) -> Response:
        return problem(FleetError(ErrorCode.INVALID_REQUEST, validation_sentence(error)))

    @app.exception_handler(StoreError)
    async def on_store_error(request: Request, error: StoreError) -> Response:
        return problem(FleetError(ErrorCode.UNAVAILABLE, f"the store did not answer: {error}"))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        code = OF_STATUS.get(error.status_code, ErrorCode.INVALID_REQUEST)
        return problem(FleetError(code, f"{request.method} {request.url.path}: {error.detail}"))

    @app.exception_handler(Exception)
    async def on_mistake(request: Request, error: Exception) -> Response:
        log.exception("%s %s failed", request.method, request.url.path)
        return problem(FleetError(ErrorCode.INTERNAL, "the coordinator made a mistake; its log tells more"))
