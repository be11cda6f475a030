"""What happened to a job: its runs, events, explanation and logs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Body, Header, Query, Request
from fastapi.responses import StreamingResponse

from coordinator.context import Context
from coordinator.handlers.terms import check_held_or_was
from coordinator.http.answers import EventsPage, Explanation, LogPage, RunsPage
from coordinator.http.app_state import context_of
from coordinator.http.auth import Anybody, Factory, job_key
from coordinator.http.bodies import LogBody
from coordinator.http.examples import runs as examples
from coordinator.http.examples import terms as terms_examples
from coordinator.http.examples.common import answers, named
from coordinator.http.json_routes import make_router
from coordinator.http.sse import POLL_S, Ticks, check_still_allowed, mode_of, sse, streaming
from coordinator.reads.histories import read_events, read_explanation
from coordinator.reads.jobs import read_found
from coordinator.store.queries import read_run, runs_of
from schemas.ids import run_id
from schemas.job import Job
from schemas.messages import LogChunk, LogHeard

router = make_router("runs", "/api/fleet/jobs/{job_id}")

RUNS_PAGE = 100
NUMBER_MAX = 2**53
REST_OF_LOG_S = 10.0  # how long a follower waits for the rest of the log of a term that is over
SeenUpTo = Annotated[int, Query(ge=0, le=NUMBER_MAX)]


@router.get(
    "/runs",
    summary="Each term of the job: who, why this one, how it ended",
    responses=answers(examples.RUNS_PAGE),
)
async def list_runs(request: Request, principal: Anybody, job_id: str, cursor: SeenUpTo = 0) -> RunsPage:
    key = job_key(request, principal, job_id)
    await read_found(context_of(request), key)
    runs = await runs_of(context_of(request).store, key.job_id, cursor, limit=RUNS_PAGE + 1)
    more = len(runs) > RUNS_PAGE
    return RunsPage(runs=tuple(runs[:RUNS_PAGE]), next_cursor=runs[RUNS_PAGE - 1].lease_epoch if more else None)


@router.get(
    "/events",
    summary="The job's history, in order, without a gap",
    responses=answers(examples.EVENTS_PAGE),
)
async def list_events(
    request: Request,
    principal: Anybody,
    job_id: str,
    cursor: SeenUpTo = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 200,
) -> EventsPage:
    events = await read_events(context_of(request), job_key(request, principal, job_id), cursor)
    more = len(events) > limit
    return EventsPage(events=tuple(events[:limit]), next_cursor=events[limit - 1].seq if more else None)


@router.get(
    "/events/stream",
    summary="The history as server-sent events; resumes by Last-Event-ID",
    response_class=StreamingResponse,
    responses=answers(examples.EVENT_STREAM, media="text/event-stream"),
)
async def stream_events(
    request: Request,
    principal: Anybody,
    job_id: str,
    last_event_id: Annotated[int, Header(alias="Last-Event-ID", ge=0, le=NUMBER_MAX)] = 0,
) -> StreamingResponse:
    """Opens with `event: mode` (live or polling) and repeats it on change; keeps alive every 15 s."""
    ctx, key = context_of(request), job_key(request, principal, job_id)
    await read_found(context_of(request), key)

    async def lines() -> AsyncIterator[str]:
        seen, mode = last_event_id, ""
        async with ctx.watchers.watch(key) as changed:
            ticks = Ticks(ctx, changed)
            while not ctx.closing.is_set():
                changed.clear()
                await check_still_allowed(request, key.product_id)
                if mode != (now := mode_of(ctx)):
                    mode = now
                    yield sse("mode", {"mode": mode})
                for event in await read_events(ctx, key, seen):
                    seen = event.seq
                    ticks.told()
                    yield sse("event", event.to_doc(), event_id=str(seen))
                while not await ticks.next(mode):
                    await check_still_allowed(request, key.product_id)
                    yield ": alive\n\n"

    return streaming(lines())


@router.get(
    "/explain",
    summary="Why it is where it is, and what would start it",
    responses=answers(examples.EXPLANATION),
)
async def explain_job(request: Request, principal: Anybody, job_id: str) -> Explanation:
    """Candidates are the factories of the products that the token is for."""
    key = job_key(request, principal, job_id)
    return Explanation.model_validate(await read_explanation(context_of(request), key, principal.products))


@router.get(
    "/logs",
    summary="What the engine of a term printed; text, or server-sent events with `follow`",
    response_model=LogPage,
    responses=answers(examples.LOG_PAGE),
)
async def read_logs(
    request: Request,
    principal: Anybody,
    job_id: str,
    epoch: Annotated[int | None, Query(ge=1, le=NUMBER_MAX)] = None,
    offset: SeenUpTo = 0,
    *,
    follow: bool = False,
) -> LogPage | StreamingResponse:
    """Without `epoch`: the latest term that printed anything. Following ends when the term has ended."""
    ctx, key = context_of(request), job_key(request, principal, job_id)
    job = await read_found(context_of(request), key)
    epochs = ctx.logs.epochs(key)
    chosen = epoch or (job.lease_epoch if job.held else max(epochs, default=max(1, job.granted_epoch)))
    if not follow:
        text, after = ctx.logs.read(key, chosen, offset)
        return LogPage(
            lease_epoch=chosen,
            epochs=tuple(epochs),
            offset=offset,
            text=text,
            next_offset=after,
            complete=await _is_complete(ctx, job, chosen),
        )

    async def lines() -> AsyncIterator[str]:
        at, over_s = offset, 0.0
        while not ctx.closing.is_set():
            await check_still_allowed(request, key.product_id)
            job_now = await read_found(ctx, key)  # before the log is read: what it printed last is not left out
            complete = await _is_complete(ctx, job_now, chosen)
            text, after = ctx.logs.read(key, chosen, at)
            if text:
                at = after
                yield sse("log", {"leaseEpoch": chosen, "text": text}, event_id=str(at))
                continue
            to_come = chosen > job_now.granted_epoch and not job_now.is_finished
            if not to_come and not job_now.is_in_term(chosen):
                if complete or over_s >= REST_OF_LOG_S:
                    yield sse("end", {"stage": str(job_now.stage), "complete": complete})
                    return
                over_s += POLL_S / 4
            await asyncio.sleep(POLL_S / 4)

    return streaming(lines())


async def _is_complete(ctx: Context, job: Job, epoch: int) -> bool:
    """Whether nothing more of a term's log is to come. A holder says how long it is when the term ends; of one that
    never said so, what it sent is all that there is.
    """
    if ctx.logs.is_ended(job.key, epoch):
        return True
    if job.is_in_term(epoch) or ctx.logs.is_open(job.key, epoch):
        return False
    run = await read_run(ctx.store, job.id, run_id(job.id, epoch))
    return run is None or (run.ended_at is not None and not (run.insights and run.insights.log_bytes))


@router.post("/logs", summary="The holder's output, bounded", responses=answers(examples.LOG_HEARD))
async def write_logs(
    request: Request,
    principal: Factory,
    job_id: str,
    body: Annotated[LogBody, Body(openapi_examples=named(chunk=terms_examples.LOG))],
) -> LogHeard:
    """A repeat changes nothing; a gap is marked. What a term printed last may come after its end."""
    ctx, key = context_of(request), job_key(request, principal, job_id)
    chunk = LogChunk(product_id=key.product_id, job_id=key.job_id, **dict(body))
    await check_held_or_was(ctx, key, principal.id, chunk.session_id, chunk.lease_epoch)
    return LogHeard(heard=ctx.logs.append(chunk))
