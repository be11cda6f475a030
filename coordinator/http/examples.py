"""Examples of requests and answers, as /openapi.json shows them. A test holds each to its model."""

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
HOLDER = {
    "factoryId": "builder-1",
    "sessionId": "rest",
    "sessionNo": 0,
    "askNo": 0,
    "runId": f"{JOB_ID}:1",
    "requestId": "4f1d2c",
}
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
    "budget": {"usd": None, "tokens": None, "wallS": None},
    "retries": {"max": 2, "used": 0, "backoffS": 30.0},
    "stage": "queued",
    "stageSince": THEN,
    "notBefore": None,
    "blockedReason": None,
    "leaseEpoch": 1,
    "grantedEpoch": 0,
    "holder": None,
    "lastFactoryId": None,
    "lostInARow": 0,
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

SUBMIT = {"manifest": MANIFEST, "idempotencyKey": "dark-mode"}
SUBMIT_ANSWER = {"job": JOB, "repeated": False, "warnings": []}
BATCH = {
    "items": [
        SUBMIT,
        {"manifest": "---\nengine: shell\ndeps: [dark-mode]\n---\n./announce\n", "idempotencyKey": "announce"},
    ]
}
REFUSAL = {
    "code": "invalid_manifest",
    "message": "line 2, key 'engine': found 'vim'; allowed is claude | codex | devin | shell",
    "detail": {"line": 2, "key": "engine", "found": "'vim'", "allowed": "claude | codex | devin | shell"},
}
BATCH_ANSWER = {"items": [SUBMIT_ANSWER, {"error": REFUSAL}]}
JOBS_PAGE = {"jobs": [JOB], "nextCursor": f"{THEN}:{JOB_ID}"}
JOB_ANSWER = {
    "job": {**JOB, "manifestSnapshot": MANIFEST.removesuffix("Add a dark mode.\n"), "bodyMd": "Add a dark mode.\n"}
}

START = {**TERM, "stage": "building"}
CHECKPOINT = {**TERM, "checkpoint": {"number": 1, "ref": REF, "commit": COMMIT}}
EVIDENCE = {"command": "make test", "rc": 0, "tail": "212 passed"}
REPORT = {
    **TERM,
    "result": {"outcome": "ok", "summary": "Dark mode, with tests.", "branch": "dark-mode", "verify": [EVIDENCE]},
    "insights": {"tokensIn": 120000, "tokensOut": 9000, "costUsd": 1.25, "diff": {"files": 4, "added": 180}},
    "next": {"requestId": "8a7b6c", "max": 1},
}
RENEW = TERM
RELEASE = {**TERM, "outcome": "released", "reason": "the machine is going down"}
TERM_ANSWER = {"v": 1, "stage": "building", "stop": None, "term": {**TERM_TIMES, "startWithinS": 0.0}}
END_ANSWER = {"v": 1, "stage": "queued", "repeated": False}
REPORT_ANSWER = {
    "v": 1,
    "report": {"v": 1, "stage": "testing", "repeated": False},
    "reportError": None,
    "next": {"v": 1, "grants": [], "reason": "no job that this factory could run is waiting"},
    "nextError": None,
}

ACTION = {"reason": "looks good"}
PREEMPT = {"reason": "something urgent", "leaseEpoch": 1}
SHIPPED = {**JOB, "stage": "shipped", "seq": 6}
ACTION_EVENT = {
    **EVENT,
    "id": f"{JOB_ID}:6",
    "seq": 6,
    "type": "shipped",
    "opId": "action:ship:operator:ann:ship-it",
    "from": "testing",
    "to": "shipped",
    "data": {"reason": "looks good"},
}
ACTION_ANSWER = {"job": SHIPPED, "event": ACTION_EVENT, "repeated": False}
REVIEW = {"verdict": "approve", "reason": "clean"}
REVIEW_ANSWER = {
    "job": {**SHIPPED, "stage": "testing", "approvals": ["operator:ann"]},
    "event": {**ACTION_EVENT, "type": "approved", "from": "review", "to": "testing"},
    "repeated": False,
}

CLAIM = {"requestId": "4f1d2c", "max": 1, "waitS": 20, "engines": ["claude", "shell"], "capabilities": ["python"]}
CLAIM_BY_ID = {"requestId": "4f1d2d", "productId": "shop", "jobId": JOB_ID, "engines": ["claude"]}
GRANT = {
    "productId": "shop",
    "jobId": JOB_ID,
    "leaseEpoch": 1,
    "requestId": "4f1d2c",
    "runId": f"{JOB_ID}:1",
    "attempt": 1,
    "title": "Add a dark mode.",
    "engine": "claude",
    "manifestSnapshot": MANIFEST.removesuffix("Add a dark mode.\n"),
    "bodyMd": "Add a dark mode.\n",
    "repo": "https://git.example/shop.git",
    "verify": ["make test"],
    "timeoutS": 3600.0,
    "term": TERM_TIMES,
}
CLAIM_ANSWER = {"v": 1, "grants": [GRANT], "reason": None}

HELLO = {
    "sessionId": "s-7f3a",
    "sessionNo": 12,
    "capabilities": ["python"],
    "engines": ["claude", "shell"],
    "seatLimit": 2,
    "transport": "rest",
    "version": "0.1.0",
    "os": "linux",
}
HELLO_ANSWER = {
    "v": 1,
    "opened": True,
    "sessionNo": 12,
    "products": ["shop"],
    "heartbeatEveryS": 5.0,
    "leaseTtlS": 60.0,
    "trustMarginS": 5.0,
    "warnings": [],
    "now": THEN,
}
HELD = {"productId": "shop", "jobId": JOB_ID, "leaseEpoch": 1}
HEARTBEAT = {
    "sessionId": "s-7f3a",
    "sessionNo": 12,
    "askNo": 41,
    "holding": [{**HELD, "progressAt": THEN}],
    "pending": [],
    "seatLimit": 2,
    "seatsUsed": 1,
    "load": 0.5,
}
HEARTBEAT_ANSWER = {
    "v": 1,
    "terms": [{**HELD, "granted": True, "stop": None, "term": TERM_TIMES}],
    "heartbeatEveryS": 5.0,
    "now": THEN,
}
FACTORIES_ANSWER = {
    "factories": [
        {
            "id": "builder-1",
            "productId": "shop",
            "products": ["shop"],
            "enrolledCapabilities": ["python"],
            "capabilities": ["python"],
            "engines": ["claude", "shell"],
            "seatLimit": 2,
            "health": "healthy",
            "transport": "bus",
            "sessionId": "s-7f3a",
            "sessionNo": 12,
            "holding": [{"productId": "shop", "jobId": JOB_ID}],
        }
    ]
}

RUNS_PAGE = {
    "runs": [
        {
            "id": f"{JOB_ID}:1",
            "jobId": JOB_ID,
            "productId": "shop",
            "leaseEpoch": 1,
            "factoryId": "builder-1",
            "sessionId": "s-7f3a",
            "engine": "claude",
            "grantedAt": THEN,
            "startedAt": THEN,
            "endedAt": LATER,
            "outcome": "ok",
            "rev": 4,
        }
    ],
    "nextCursor": None,
}
EVENTS_PAGE = {"events": [EVENT], "nextCursor": None}
EVENT_STREAM = 'event: mode\ndata: {"mode":"live"}\n\nid: 1\nevent: event\ndata: {"seq":1,"type":"submitted"}\n\n'
EXPLANATION = {
    "productId": "shop",
    "jobId": JOB_ID,
    "stage": "queued",
    "since": THEN,
    "waitingS": 12.5,
    "priority": "normal",
    "tier": 2,
    "reason": "No factory offers engine claude.",
    "wouldStartIf": ["a factory with engine claude joins"],
    "weightsVersion": "default-1",
    "candidates": [
        {
            "factoryId": "builder-2",
            "feasible": False,
            "obstacles": [{"filter": "engine", "text": "builder-2 has no engine claude"}],
            "score": 3.5,
            "terms": {"capabilityFit": 1.0, "load": 1.0},
        }
    ],
    "history": [EVENT],
}
LOG = {"leaseEpoch": 1, "sessionId": "rest", "offset": 0, "text": "compiling\n"}
LOG_PAGE = {"leaseEpoch": 1, "epochs": [1], "offset": 0, "text": "compiling\n", "nextOffset": 10}

ALIVE = {"status": "ok"}
READINESS = {"status": "degraded", "store": "ok", "bus": "unavailable: REST only"}
METRICS = '# TYPE gigafactory_jobs gauge\ngigafactory_jobs{stage="queued"} 3.0\n'
PROBLEM = {
    "type": "urn:gigafactory:error:fenced",
    "title": "The caller does not hold this term of the job: stop now",
    "status": 409,
    "detail": f"term 1 of {JOB_ID} is not yours: stop now",
    "code": "fenced",
    "definite": True,
    "extra": {"leaseEpoch": 1},
}
