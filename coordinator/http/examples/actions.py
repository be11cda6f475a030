"""Examples of operators' actions and reviews."""

from __future__ import annotations

from coordinator.http.examples.common import EVENT, JOB, JOB_ID

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
