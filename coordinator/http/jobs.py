"""Jobs: submit, list and read."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, Query, Request, Response

from coordinator.handlers import intake
from coordinator.handlers.grants import read_body
from coordinator.http.answers import (
    BatchAnswer,
    BatchRefusal,
    ErrorDoc,
    JobAnswer,
    JobDetail,
    JobRow,
    JobsPage,
    SubmitAnswer,
)
from coordinator.http.app_state import context_of
from coordinator.http.auth import Anybody, Operator, Principal, job_key, product_of
from coordinator.http.bodies import BatchBody, SubmitBody
from coordinator.http.examples import jobs as examples
from coordinator.http.examples.common import MANIFEST, answers, named
from coordinator.http.idempotency import IdempotencyKey
from coordinator.http.json_routes import make_router
from coordinator.reads.jobs import JobFilter, list_page, read_found
from schemas.errors import ErrorCode, FleetError
from schemas.job import Stage

router = make_router("jobs", "/api/fleet/jobs")


def _submitted(answer: intake.Submitted) -> SubmitAnswer:
    return SubmitAnswer(job=JobRow.of(answer.job), repeated=answer.repeated, warnings=answer.warnings)


def _submission(request: Request, principal: Principal, raw: bytes, key: str | None) -> intake.Submission:
    """With the product of the header, where there is one that the token is for."""
    product_id = product_of(request, principal) if request.headers.get("x-product-id") else None
    return intake.Submission(raw, product_id, key)


@router.post(
    "",
    status_code=201,
    summary="Submit a manifest",
    response_model=SubmitAnswer,
    responses={
        **answers(examples.SUBMIT_ANSWER, 201, "submitted"),
        **answers(examples.SUBMIT_ANSWER | {"repeated": True}, 200, "it was known already", SubmitAnswer),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "text/markdown": {"schema": {"type": "string"}, "example": MANIFEST},
                "application/json": {
                    "schema": SubmitBody.model_json_schema(by_alias=True),
                    "example": examples.SUBMIT,
                },
            },
        }
    },
)
async def submit(request: Request, response: Response, principal: Operator, key: IdempotencyKey = None) -> SubmitAnswer:
    """Body: the manifest (text/markdown), or JSON {manifest, idempotencyKey}. 200 when it was known already."""
    raw = await request.body()
    if request.headers.get("content-type", "").startswith("application/json"):
        body = SubmitBody.model_validate_json(raw)
        if key is not None and body.idempotency_key not in (None, key):
            raise FleetError(
                ErrorCode.CONFLICT, f"Idempotency-Key is '{key}', the body's idempotencyKey '{body.idempotency_key}'"
            )
        raw, key = body.manifest.encode(), key or body.idempotency_key
    answer = await intake.submit(
        context_of(request),
        _submission(request, principal, raw, key),
        principal.actor,
        principal.only_product,
        principal.checked_product,
    )
    response.status_code = 200 if answer.repeated else 201
    return _submitted(answer)


@router.post(
    "/batch",
    summary="Submit several manifests, whose deps may name each other by idempotencyKey",
    responses=answers(examples.BATCH_ANSWER),
)
async def submit_batch(
    request: Request,
    principal: Operator,
    body: Annotated[BatchBody, Body(openapi_examples=named(chain=examples.BATCH))],
) -> BatchAnswer:
    """One answer per item, in order: {job, …} or {error}."""
    answers = await intake.submit_batch(
        context_of(request),
        [_submission(request, principal, item.manifest.encode(), item.idempotency_key) for item in body.items],
        principal.actor,
        principal.only_product,
        principal.checked_product,
    )
    return BatchAnswer(items=tuple(_batch_item(answer) for answer in answers))


def _batch_item(answer: intake.Submitted | FleetError) -> SubmitAnswer | BatchRefusal:
    if isinstance(answer, FleetError):
        return BatchRefusal(error=ErrorDoc(code=answer.code, message=answer.message, detail=answer.detail))
    return _submitted(answer)


@router.get("", summary="List jobs, newest first", responses=answers(examples.JOBS_PAGE))
async def list_jobs(
    request: Request,
    principal: Anybody,
    stage: Stage | None = None,
    capability: Annotated[str | None, Query(max_length=32)] = None,
    q: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> JobsPage:
    """`q` looks into title and id. `cursor` comes from the page before; `nextCursor` is null on the last."""
    wanted = JobFilter(stage, capability, q)
    product_id = product_of(request, principal)
    page = await list_page(context_of(request), product_id, wanted, limit, cursor, JobRow)
    return JobsPage(jobs=page.rows, next_cursor=page.cursor)


@router.get("/{job_id}", summary="One job, with its manifest", responses=answers(examples.JOB_ANSWER))
async def get_job(request: Request, principal: Anybody, job_id: str) -> JobAnswer:
    ctx = context_of(request)
    job = await read_found(ctx, job_key(request, principal, job_id))
    return JobAnswer(job=JobDetail.of_job(job, await read_body(ctx, job)), phase=ctx.roster.phase_of(job))
