"""What the examples share: one job, its event, and how a route shows an example."""

from __future__ import annotations

from typing import Any

Doc = dict[str, Any]
JOB_ID = "jmzxw6ytcmfzgk3df5o7a2b4c"
COMMIT = "9f1c2d3e4b5a69788776655443322110ffeeddcc"
REF = f"refs/gigafactory/{JOB_ID}/1"
THEN, LATER = "2030-01-01T12:00:00.000000Z", "2030-01-01T12:01:00.000000Z"


def named(**values: Doc) -> dict[str, Any]:
    """Examples of a request, by name."""
    return {name: {"value": value} for name, value in values.items()}


def answers(
    example: Any, status: int = 200, description: str = "done", model: Any = None, media: str = "application/json"
) -> dict[int | str, dict[str, Any]]:
    """An answer's example, for a route's `responses`."""
    told: dict[str, Any] = {"description": description, "content": {media: {"example": example}}}
    return {status: told if model is None else {**told, "model": model}}


MANIFEST = "---\nengine: claude\nrepo: https://git.example/shop.git\nverify: make test\n---\nAdd a dark mode.\n"
TERM = {"leaseEpoch": 1, "sessionId": "rest"}
TERM_TIMES = {"leaseLeftS": 60.0, "renewEveryS": 20.0, "startWithinS": 30.0, "now": THEN}
EVENT = {
    "id": f"{JOB_ID}:1",
    "jobId": JOB_ID,
    "productId": "shop",
    "seq": 1,
    "type": "submitted",
    "at": THEN,
    "actor": "operator:ann",
    "opId": "submit:dark-mode",
    "from": None,
    "to": "queued",
    "leaseEpoch": 1,
    "data": {"title": "Add a dark mode."},
}
JOB: Doc = {
    "id": JOB_ID,
    "productId": "shop",
    "kind": "task",
    "title": "Add a dark mode.",
    "parentId": None,
    "deps": [],
    "depsMode": "all",
    "profile": None,
    "capabilities": [],
    "engine": "claude",
    "priority": "normal",
    "lock": None,
    "timeoutS": 3600.0,
    "idleS": None,
    "network": True,
    "budget": {"usd": None, "tokens": None, "wallS": None},
    "retries": {"max": 2, "used": 0, "backoffS": 30.0, "failed": 0},
    "stage": "queued",
    "stageSince": THEN,
    "notBefore": None,
    "blockedReason": None,
    "leaseEpoch": 1,
    "grantedEpoch": 0,
    "holder": None,
    "lastFactoryId": None,
    "lostInARow": 0,
    "avoid": [],
    "unpublished": None,
    "waitingSince": THEN,
    "repo": "https://git.example/shop.git",
    "cwd": None,
    "ref": None,
    "verify": ["make test"],
    "review": 0,
    "ship": "auto",
    "yolo": False,
    "stop": None,
    "attempt": 0,
    "checkpoint": None,
    "result": None,
    "approvals": [],
    "spend": {"usd": 0.0, "tokens": 0},
    "reserved": 0.0,
    "idempotencyKey": "dark-mode",
    "createdAt": THEN,
    "updatedAt": THEN,
    "seq": 1,
    "rev": 0,
}
PROBLEM = {
    "type": "urn:gigafactory:error:fenced",
    "title": "The caller does not hold this term of the job: stop now",
    "status": 409,
    "detail": f"term 1 of {JOB_ID} is not yours: stop now",
    "code": "fenced",
    "definite": True,
    "extra": {"leaseEpoch": 1},
}
