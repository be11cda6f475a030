"""Examples of the service's own state."""

from __future__ import annotations

ALIVE = {"status": "ok"}
READINESS = {"status": "degraded", "store": "ok", "bus": "unavailable: REST only"}
METRICS = '# TYPE gigafactory_jobs gauge\ngigafactory_jobs{stage="queued"} 3.0\n'
