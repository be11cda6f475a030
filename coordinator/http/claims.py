"""Claims over REST: the same messages as on the bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Body, Request

from coordinator.handlers import claims
from coordinator.http.app_state import context_of
from coordinator.http.auth import Factory, Principal, checked
from coordinator.http.bodies import ClaimBody, spoken_by
from coordinator.http.examples import claims as examples
from coordinator.http.examples.common import answers, named
from coordinator.http.json_routes import make_router
from schemas.errors import ErrorCode, FleetError
from schemas.ids import check_name
from schemas.messages import ClaimAnswer, ClaimRequest

router = make_router("claims", "/api/fleet")


@router.post(
    "/claim",
    summary="Claim a job by its id, or the best one; waitS holds the call open",
    responses=answers(examples.CLAIM_ANSWER),
)
async def claim(
    request: Request,
    principal: Factory,
    body: Annotated[ClaimBody, Body(openapi_examples=named(best=examples.CLAIM, byId=examples.CLAIM_BY_ID))],
) -> ClaimAnswer:
    """A claim that was not answered is repeated with the same `requestId`, and gives the same grant."""
    asked = _for_product(request, principal, spoken_by(principal, body))
    if not asked.wait_s:
        return await claims.claim(context_of(request), asked)
    async with _hung_up(request) as gone:
        return await claims.claim(context_of(request), asked, gone)


def _for_product(request: Request, principal: Principal, asked: ClaimRequest) -> ClaimRequest:
    """The header narrows the claim to one product; without it, it spans those of the factory."""
    header = request.headers.get("x-product-id")
    if header and asked.product_id not in (None, header):
        raise FleetError(
            ErrorCode.CONFLICT, f"x-product-id is '{header}', the body's productId is '{asked.product_id}'"
        )
    named = header or asked.product_id
    if named is None:
        return asked
    return asked.model_copy(update={"product_id": principal.checked_product(checked(check_name, named))})


@contextlib.asynccontextmanager
async def _hung_up(request: Request) -> AsyncIterator[asyncio.Task[None]]:
    """A task that is done when the client has gone away."""

    async def until_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    gone = asyncio.create_task(until_gone())
    try:
        yield gone
    finally:
        gone.cancel()
