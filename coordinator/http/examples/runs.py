"""Examples of what happened to a job."""

from __future__ import annotations

from coordinator.http.examples.common import EVENT, JOB_ID, LATER, THEN

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
LOG_PAGE = {"leaseEpoch": 1, "epochs": [1], "offset": 0, "text": "compiling\n", "nextOffset": 10, "complete": True}
LOG_HEARD = {"v": 1, "heard": 10}
