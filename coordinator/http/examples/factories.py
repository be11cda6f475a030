"""Examples of sessions and heartbeats."""

from __future__ import annotations

from coordinator.http.examples.common import JOB_ID, TERM_TIMES, THEN

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
ENDED = {"jobIds": [JOB_ID, "another"], "forS": 2592000.0}
ENDED_ANSWER = {"v": 1, "jobIds": [JOB_ID]}
