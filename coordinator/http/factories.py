"""Factories: list, hello and heartbeat over REST."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, Request

from coordinator.handlers import ended_jobs, heartbeats, sessions
from coordinator.http.answers import FactoriesAnswer, FactoryRow, HeldJob
from coordinator.http.app_state import context_of
from coordinator.http.auth import Anybody, Factory, products_of
from coordinator.http.bodies import EndedBody, HeartbeatBody, HelloBody, spoken_by
from coordinator.http.examples import factories as examples
from coordinator.http.examples.common import answers, named
from coordinator.http.json_routes import make_router
from schemas.messages import EndedAnswer, HeartbeatAnswer, HelloAnswer

router = make_router("factories", "/api/fleet/factories")


@router.get(
    "",
    summary="All factories of the products that the token is for",
    responses=answers(examples.FACTORIES_ANSWER),
)
async def list_factories(request: Request, principal: Anybody) -> FactoriesAnswer:
    """Of a factory that serves other products too, only what concerns these is shown."""
    ctx = context_of(request)
    shown = products_of(request, principal)
    rows = []
    for entry in ctx.roster.entries():
        products = tuple(name for name in entry.doc.products if shown is None or name in shown)
        if not products:
            continue
        held = [job for job in ctx.ready.held_by(entry.doc.id) if job.product_id in products]
        rows.append(
            FactoryRow.model_construct(
                **{name: getattr(entry.doc, name) for name in type(entry.doc).model_fields}
                | {
                    "products": products,
                    "health": ctx.roster.health(entry),
                    "holding": tuple(HeldJob(product_id=job.product_id, job_id=job.id) for job in held),
                }
            )
        )
    return FactoriesAnswer(factories=tuple(rows))


@router.post("/hello", summary="Open a session", responses=answers(examples.HELLO_ANSWER))
async def hello(
    request: Request,
    principal: Factory,
    body: Annotated[HelloBody, Body(openapi_examples=named(hello=examples.HELLO))],
) -> HelloAnswer:
    """The higher `sessionNo` wins and fences the sessions below it."""
    return await sessions.hello(context_of(request), spoken_by(principal, body))


@router.post("/heartbeat", summary="Alive, and what is held", responses=answers(examples.HEARTBEAT_ANSWER))
async def heartbeat(
    request: Request,
    principal: Factory,
    body: Annotated[HeartbeatBody, Body(openapi_examples=named(heartbeat=examples.HEARTBEAT))],
) -> HeartbeatAnswer:
    """Renews every term that it names; the answer says what is no longer granted and what must stop."""
    return await heartbeats.heartbeat(context_of(request), spoken_by(principal, body))


@router.post("/ended-jobs", summary="Which jobs ended long ago", responses=answers(examples.ENDED_ANSWER))
async def ended(
    request: Request,
    principal: Factory,
    body: Annotated[EndedBody, Body(openapi_examples=named(ended=examples.ENDED))],
) -> EndedAnswer:
    """Of these jobs, those that have been over for `forS` seconds: what the fleet saved of them may be removed."""
    return await ended_jobs.ended_jobs(context_of(request), spoken_by(principal, body))
