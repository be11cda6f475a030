"""The one registry of errors: the stable code, the HTTP status, whether it happened, and a sentence."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple


class ErrorCode(StrEnum):
    INVALID_MANIFEST = "invalid_manifest"
    INVALID_REQUEST = "invalid_request"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    FENCED = "fenced"
    ILLEGAL_TRANSITION = "illegal_transition"
    NO_CAPABILITY = "no_capability"
    BUDGET_PAUSED = "budget_paused"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class ErrorSpec(NamedTuple):
    status: int
    definite: bool  # True: it did not happen and never will; False: ask again with the same key to learn
    title: str


ERRORS: dict[ErrorCode, ErrorSpec] = {
    ErrorCode.INVALID_MANIFEST: ErrorSpec(422, True, "The manifest is not valid"),
    ErrorCode.INVALID_REQUEST: ErrorSpec(422, True, "The request is not valid"),
    ErrorCode.NOT_FOUND: ErrorSpec(404, True, "There is no such thing"),
    ErrorCode.CONFLICT: ErrorSpec(409, True, "It contradicts what is already so"),
    ErrorCode.FENCED: ErrorSpec(409, True, "The caller does not hold this term of the job: stop now"),
    ErrorCode.ILLEGAL_TRANSITION: ErrorSpec(409, True, "The job's stage does not allow this"),
    ErrorCode.NO_CAPABILITY: ErrorSpec(409, True, "The factory cannot do this job"),
    ErrorCode.BUDGET_PAUSED: ErrorSpec(409, True, "The product starts nothing new"),
    ErrorCode.UNAUTHORIZED: ErrorSpec(401, True, "A valid bearer token is needed"),
    ErrorCode.FORBIDDEN: ErrorSpec(403, True, "The token does not allow this"),
    ErrorCode.TOO_LARGE: ErrorSpec(413, True, "The input is larger than allowed"),
    ErrorCode.RATE_LIMITED: ErrorSpec(429, True, "Too many requests"),
    ErrorCode.UNAVAILABLE: ErrorSpec(503, False, "The outcome is not known: ask again with the same key"),
    ErrorCode.INTERNAL: ErrorSpec(500, False, "The coordinator made a mistake; its log tells more"),
}


class FleetError(Exception):
    """An answer that is an error, on its way to its asker."""

    def __init__(self, code: ErrorCode, message: str, **detail: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail

    def to_doc(self) -> dict[str, Any]:
        return {"code": str(self.code), "message": self.message, "detail": self.detail}

    @classmethod
    def from_doc(cls, doc: dict[str, Any]) -> FleetError:
        try:
            code = ErrorCode(str(doc.get("code")))
        except ValueError:
            code = ErrorCode.INTERNAL
        error = cls(code, str(doc.get("message", "")))
        detail = doc.get("detail")
        error.detail = dict(detail) if isinstance(detail, dict) else {}
        return error
