"""Examples of claims and grants."""

from __future__ import annotations

from coordinator.http.examples.common import JOB_ID, MANIFEST, TERM_TIMES

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
    "idleS": None,
    "network": True,
    "term": TERM_TIMES,
}
CLAIM_ANSWER = {"v": 1, "grants": [GRANT], "reason": None}
