"""What operators do to a job: actions and reviews."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, Request

from coordinator.handlers import actions
from coordinator.http.answers import ActionAnswer, JobRow
from coordinator.http.app_state import context_of
from coordinator.http.auth import Operator, job_key
from coordinator.http.bodies import ActionBody, ReviewBody
from coordinator.http.examples import actions as examples
from coordinator.http.examples.common import answers, named
from coordinator.http.idempotency import IdempotencyKey
from coordinator.http.json_routes import make_router
from coordinator.transact import Applied

router = make_router("actions", "/api/fleet/jobs")


def _done(applied: Applied) -> ActionAnswer:
    return ActionAnswer(job=JobRow.of(applied.job), event=applied.event, repeated=applied.repeated)


@router.post(
    "/{job_id}/actions/{action}",
    summary="ship, requeue, reject, cancel or preempt",
    responses=answers(examples.ACTION_ANSWER),
)
async def act(
    request: Request,
    principal: Operator,
    job_id: str,
    action: str,
    body: Annotated[
        ActionBody | None,
        Body(openapi_examples=named(any=examples.ACTION, preempt=examples.PREEMPT)),
    ] = None,
    key: IdempotencyKey = None,
) -> ActionAnswer:
    """Without an Idempotency-Key the action is not safe to repeat."""
    ctx = context_of(request)
    body = body or ActionBody()
    applied = await actions.act(
        ctx,
        job_key(request, principal, job_id),
        action,
        principal.actor,
        key or ctx.entropy.token(),
        reason=body.reason,
        checkpoint=body.checkpoint,
        lease_epoch=body.lease_epoch,
    )
    return _done(applied)


@router.post(
    "/{job_id}/review",
    summary="Approve, ask for changes, or reject",
    responses=answers(examples.REVIEW_ANSWER),
)
async def review(
    request: Request,
    principal: Operator,
    job_id: str,
    body: Annotated[ReviewBody, Body(openapi_examples=named(approve=examples.REVIEW))],
    key: IdempotencyKey = None,
) -> ActionAnswer:
    """Each approver counts once; at the number that the manifest asks for the job goes on."""
    ctx = context_of(request)
    target = job_key(request, principal, job_id)
    return _done(
        await actions.review(ctx, target, body.verdict, principal.actor, key or ctx.entropy.token(), body.reason)
    )
