"""Claims and renewals over REST: the same messages as on the bus."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from coordinator.handlers import claims, terms
from coordinator.http.auth import Factory, Principal, job_key
from coordinator.http.deps import deps_of
from schemas.errors import ErrorCode, FleetError
from schemas.messages import ClaimAnswer, ClaimRequest, RenewRequest, TermAnswer

router = APIRouter(prefix="/api/fleet", tags=["claims"])


def speaks_for_itself(principal: Principal, body: dict[str, Any]) -> dict[str, Any]:
    """The body with the token's factory as its `factoryId`. Raises forbidden where it names another."""
    if body.get("factoryId", principal.id) != principal.id:
        raise FleetError(ErrorCode.FORBIDDEN, f"the token of {principal.id} cannot speak for {body['factoryId']}")
    return {**body, "factoryId": principal.id}


@router.post("/claim", summary="Claim a job by its id, or the best one; waitS holds the call open")
async def claim(request: Request, principal: Factory, body: dict[str, Any]) -> ClaimAnswer:
    asked = ClaimRequest.model_validate(speaks_for_itself(principal, body))
    product_id = request.headers.get("x-product-id")
    if product_id is not None and asked.product_id is None:
        asked = asked.model_copy(update={"product_id": principal.checked_product(product_id)})
    return await claims.claim(deps_of(request).ctx, asked)


@router.post("/jobs/{job_id}/lease/renew", summary="The holder lives")
async def renew(request: Request, principal: Factory, job_id: str, body: dict[str, Any]) -> TermAnswer:
    key = job_key(request, principal, job_id)
    term = {**speaks_for_itself(principal, body), "productId": key.product_id, "jobId": key.job_id}
    return await terms.renew(deps_of(request).ctx, RenewRequest.model_validate(term))
