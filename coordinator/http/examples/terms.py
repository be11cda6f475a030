"""Examples of what holders say of their terms."""

from __future__ import annotations

from coordinator.http.examples.common import COMMIT, REF, TERM, TERM_TIMES

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
LOG = {"leaseEpoch": 1, "sessionId": "rest", "offset": 0, "text": "compiling\n"}
