"""Factories: list, hello and heartbeat over REST."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from coordinator.handlers import factories
from coordinator.http.auth import Anybody, Factory
from coordinator.http.claims import speaks_for_itself
from coordinator.http.deps import deps_of
from schemas.messages import HeartbeatAnswer, HeartbeatRequest, HelloAnswer, HelloRequest

router = APIRouter(prefix="/api/fleet/factories", tags=["factories"])

SECRET = ("tokenHashes", "busKey")


@router.get("", summary="All factories of the products that the token is for")
async def list_factories(request: Request, principal: Anybody) -> dict[str, Any]:
    ctx = deps_of(request).ctx
    rows = []
    for entry in ctx.roster.entries():
        if principal.products is not None and not principal.products & set(entry.doc.products):
            continue
        shown = {name: value for name, value in entry.doc.to_doc().items() if name not in SECRET}
        held = [{"productId": job.product_id, "jobId": job.id} for job in ctx.ready.held_by(entry.doc.id)]
        rows.append({**shown, "health": str(ctx.roster.health(entry)), "holding": held})
    return {"factories": rows}


@router.post("/hello", summary="Open a session")
async def hello(request: Request, principal: Factory, body: dict[str, Any]) -> HelloAnswer:
    asked = HelloRequest.model_validate(speaks_for_itself(principal, body))
    return await factories.hello(deps_of(request).ctx, asked)


@router.post("/heartbeat", summary="Alive, and what is held")
async def heartbeat(request: Request, principal: Factory, body: dict[str, Any]) -> HeartbeatAnswer:
    asked = HeartbeatRequest.model_validate(speaks_for_itself(principal, body))
    return await factories.heartbeat(deps_of(request).ctx, asked)
