"""Which jobs have been over for so long that a factory may remove what the fleet left of them in their sources."""

from __future__ import annotations

from datetime import timedelta

from coordinator.context import Context
from coordinator.factories import read_enrolled
from coordinator.store.queries import read_job
from schemas.ids import JobKey
from schemas.messages import EndedAnswer, EndedRequest


async def ended_jobs(ctx: Context, request: EndedRequest) -> EndedAnswer:
    """Of the products that the factory is enrolled for. A job that is not known here may be another fleet's: it is not
    among them.
    """
    factory = (await read_enrolled(ctx, request.factory_id)).factory
    before = ctx.clock.now() - timedelta(seconds=request.for_s)
    found = []
    for job_id in dict.fromkeys(request.job_ids):
        for product_id in factory.products:
            stored = await read_job(ctx.store, JobKey(product_id, job_id))
            if stored is not None and stored.job.is_finished and stored.job.stage_since <= before:
                found.append(job_id)
    return EndedAnswer(job_ids=tuple(found))
