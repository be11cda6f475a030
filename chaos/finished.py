"""When a job is finished, as both worlds wait for it."""

from __future__ import annotations

from chaos.history import Doc
from schemas import job as jobs


def is_finished(job: Doc) -> bool:
    """A job, or its row as REST lists it."""
    return jobs.is_finished(job["stage"], job.get("notBefore"), (job.get("result") or {}).get("outcome"))
