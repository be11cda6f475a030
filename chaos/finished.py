"""When a job is over, as both worlds wait for it."""

from __future__ import annotations

from chaos.history import Doc

ENDS = frozenset({"shipped", "failed", "dead_letter"})


def is_finished(job: Doc) -> bool:
    """A job, or its row as REST lists it. One that failed and waits for its retry is still on its way."""
    waits_for_retry = job["stage"] == "failed" and job.get("notBefore") is not None
    return job["stage"] in ENDS and not waits_for_retry
