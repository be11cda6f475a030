"""What happened to a job: its runs, events, explanation and logs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from coordinator.handlers.terms import check_holder
from coordinator.http.auth import Anybody, Factory, job_key
from coordinator.http.deps import Deps, deps_of
from coordinator.http.jobs import found
from coordinator.http.live import KEEP_ALIVE_S, POLL_S, mode_of, sse
from coordinator.scheduler.explain import explain
from coordinator.store.queries import runs_of
from coordinator.transact import history
from schemas.errors import ErrorCode, FleetError
from schemas.ids import JobKey
from schemas.messages import LogChunk

router = APIRouter(prefix="/api/fleet/jobs/{job_id}", tags=["runs"])


@router.get("/runs", summary="Each term of the job: who, why this one, how it ended")
async def list_runs(
    request: Request, principal: Anybody, job_id: str, cursor: Annotated[int, Query(ge=0)] = 0
) -> dict[str, Any]:
    key = job_key(request, principal, job_id)
    await found(request, key)
    runs = await runs_of(deps_of(request).ctx.store, key.job_id, cursor, limit=100)
    return {
        "runs": [run.to_doc() for run in runs],
        "nextCursor": runs[-1].lease_epoch if len(runs) == 100 else None,
    }


@router.get("/events", summary="The job's history, in order, without a gap")
async def list_events(
    request: Request,
    principal: Anybody,
    job_id: str,
    cursor: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 200,
) -> dict[str, Any]:
    events = await events_after_cursor(deps_of(request), job_key(request, principal, job_id), cursor)
    page = events[:limit]
    return {"events": page, "nextCursor": page[-1]["seq"] if len(events) > limit else None}


async def events_after_cursor(deps: Deps, key: JobKey, cursor: int) -> list[dict[str, Any]]:
    events = await history(deps.ctx.store, key, cursor)
    if events is None:
        raise FleetError(ErrorCode.NOT_FOUND, f"there is no job {key.job_id} in product {key.product_id}")
    return [event.to_doc() for event in events]


@router.get("/events/stream", summary="The history as server-sent events; resumes by Last-Event-ID")
async def stream_events(
    request: Request,
    principal: Anybody,
    job_id: str,
    last_event_id: Annotated[int, Header(alias="Last-Event-ID", ge=0)] = 0,
) -> StreamingResponse:
    deps, key = deps_of(request), job_key(request, principal, job_id)
    await events_after_cursor(deps, key, last_event_id)

    async def lines() -> AsyncIterator[str]:
        seen, mode, idle_s = last_event_id, "", 0.0
        async with deps.feed.watch(key) as changed:
            while True:
                changed.clear()
                if mode != (now := mode_of(deps)):
                    mode = now
                    yield sse("mode", {"mode": mode})
                for event in await events_after_cursor(deps, key, seen):
                    seen, idle_s = event["seq"], 0.0
                    yield sse("event", event, event_id=str(seen))
                wait_s = KEEP_ALIVE_S if mode == "live" else POLL_S
                try:
                    async with asyncio.timeout(wait_s):
                        await changed.wait()
                except TimeoutError:
                    idle_s += wait_s
                    if idle_s >= KEEP_ALIVE_S:
                        idle_s = 0.0
                        yield ": alive\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.get("/explain", summary="Why it is where it is, and what would start it")
async def explain_job(request: Request, principal: Anybody, job_id: str) -> dict[str, Any]:
    deps, key = deps_of(request), job_key(request, principal, job_id)
    job = await found(request, key)
    events = await events_after_cursor(deps, key, max(0, job.seq - 20))
    return {**explain(job, deps.ctx.snapshot()), "history": events}


@router.get("/logs", summary="What the engine of a term printed; text, or server-sent events with `follow`")
async def read_logs(
    request: Request,
    principal: Anybody,
    job_id: str,
    epoch: Annotated[int | None, Query(ge=1)] = None,
    offset: Annotated[int, Query(ge=0)] = 0,
    *,
    follow: bool = False,
) -> Any:
    """Without `epoch`: the latest term that printed anything. Following ends when the term has ended."""
    deps, key = deps_of(request), job_key(request, principal, job_id)
    job = await found(request, key)
    epochs = deps.logs.epochs(key)
    chosen = epoch or (job.lease_epoch if job.held else max(epochs, default=max(1, job.granted_epoch)))
    if not follow:
        text, after = deps.logs.read(key, chosen, offset)
        return {"leaseEpoch": chosen, "epochs": epochs, "offset": offset, "text": text, "nextOffset": after}

    async def lines() -> AsyncIterator[str]:
        at = offset
        while True:
            text, after = deps.logs.read(key, chosen, at)
            if text:
                at = after
                yield sse("log", {"leaseEpoch": chosen, "text": text}, event_id=str(at))
                continue
            job_now = await found(request, key)
            if not job_now.held or job_now.lease_epoch != chosen:
                yield sse("end", {"stage": str(job_now.stage)})
                return
            await asyncio.sleep(POLL_S / 4)

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.post("/logs", status_code=204, summary="The holder's output, bounded")
async def write_logs(request: Request, principal: Factory, job_id: str, body: dict[str, Any]) -> None:
    deps, key = deps_of(request), job_key(request, principal, job_id)
    chunk = LogChunk.model_validate({**body, "productId": key.product_id, "jobId": key.job_id})
    await check_holder(deps.ctx, key, principal.id, chunk.session_id, chunk.lease_epoch)
    deps.logs.append(chunk)
