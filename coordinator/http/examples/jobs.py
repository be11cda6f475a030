"""Examples of submitting and reading jobs."""

from __future__ import annotations

from coordinator.http.examples.common import JOB, JOB_ID, MANIFEST, THEN

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
