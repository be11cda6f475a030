"""Jobs: submit, list, read, the holder's PATCH, operators' actions and reviews."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from coordinator.handlers import actions, intake, terms
from coordinator.handlers.claims import body_of
from coordinator.http.auth import Anybody, Factory, Operator, job_key, product_of
from coordinator.http.deps import deps_of
from coordinator.store.port import JOBS, QUERY_LIMIT_MAX, Where
from coordinator.store.port import Query as StoreQuery
from coordinator.store.queries import read_job
from coordinator.transact import Applied
from schemas.base import Schema
from schemas.errors import ErrorCode, FleetError
from schemas.ids import KEY_LENGTH_MAX, JobKey
from schemas.job import Checkpoint, Job, Result, Stage
from schemas.messages import CheckpointRequest, LongText, NextRequest, ReleaseRequest, ReportRequest, StartRequest
from schemas.projections import Insights

router = APIRouter(prefix="/api/fleet/jobs", tags=["jobs"])

IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=KEY_LENGTH_MAX)]
LIST_OMITS = ("outbox", "pendingEvents", "manifestSnapshot", "bodyMd", "sortKey", "manifestSha256")


def job_row(job: Job) -> dict[str, Any]:
    return {name: value for name, value in job.to_doc().items() if name not in LIST_OMITS}


class SubmitBody(Schema):
    """The JSON form of a submit; the manifest itself may as well be the whole body, as text/markdown."""

    manifest: str
    idempotency_key: str | None = None


class BatchBody(Schema):
    items: Annotated[tuple[SubmitBody, ...], Field(min_length=1, max_length=intake.BATCH_MAX)]


def _submitted(answer: intake.Submitted) -> dict[str, Any]:
    return {"job": job_row(answer.job), "repeated": answer.repeated, "warnings": list(answer.warnings)}


@router.post("", status_code=201, summary="Submit a manifest")
async def submit(request: Request, principal: Operator, key: IdempotencyKey = None) -> JSONResponse:
    """Body: the manifest (text/markdown), or JSON {manifest, idempotencyKey}. 200 when it was known already."""
    raw = await request.body()
    if request.headers.get("content-type", "").startswith("application/json"):
        body = SubmitBody.model_validate_json(raw)
        raw, key = body.manifest.encode(), key or body.idempotency_key
    submission = intake.Submission(raw, request.headers.get("x-product-id"), key)
    if submission.product_id is not None:
        product_of(request, principal)
    answer = await intake.submit(
        deps_of(request).ctx, submission, principal.actor, principal.only_product, principal.checked_product
    )
    return JSONResponse(_submitted(answer), 200 if answer.repeated else 201)


@router.post("/batch", summary="Submit several manifests, whose deps may name each other by idempotencyKey")
async def submit_batch(request: Request, principal: Operator, body: BatchBody) -> dict[str, Any]:
    """One answer per item, in order: {job, …} or {error}."""
    product = request.headers.get("x-product-id")
    if product is not None:
        product_of(request, principal)
    submissions = [intake.Submission(item.manifest.encode(), product, item.idempotency_key) for item in body.items]
    answers = await intake.submit_batch(
        deps_of(request).ctx, submissions, principal.actor, principal.only_product, principal.checked_product
    )
    return {
        "items": [
            {"error": answer.to_doc()} if isinstance(answer, FleetError) else _submitted(answer) for answer in answers
        ]
    }


@router.get("", summary="List jobs, newest first")
async def list_jobs(
    request: Request,
    principal: Anybody,
    stage: Stage | None = None,
    capability: Annotated[str | None, Query(max_length=32)] = None,
    q: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """`q` looks into title and id. `cursor` comes from the page before; `nextCursor` is null on the last."""
    product_id = product_of(request, principal)
    where = (Where("stage", "=", str(stage)),) if stage else ()
    rows: list[dict[str, Any]] = []
    while len(rows) < limit:
        query = StoreQuery(
            JOBS, product_id, where, order="sortKey", descending=True, after=cursor, limit=min(QUERY_LIMIT_MAX, 200)
        )
        page = await deps_of(request).ctx.store.query(query)
        for stored in page:
            job = Job.model_validate(stored.doc)
            cursor = job.sort_key
            if _wanted(job, capability, q):
                rows.append(job_row(job))
            if len(rows) == limit:
                return {"jobs": rows, "nextCursor": cursor}
        if len(page) < query.limit:
            return {"jobs": rows, "nextCursor": None}
    return {"jobs": rows, "nextCursor": cursor}


def _wanted(job: Job, capability: str | None, q: str | None) -> bool:
    if capability is not None and capability not in job.capabilities:
        return False
    return q is None or q.lower() in job.title.lower() or q in job.id


@router.get("/{job_id}", summary="One job, with its manifest")
async def get_job(request: Request, principal: Anybody, job_id: str) -> dict[str, Any]:
    job = await found(request, job_key(request, principal, job_id))
    shown = {"manifestSnapshot": job.manifest_snapshot, "bodyMd": await body_of(deps_of(request).ctx, job)}
    return {"job": {**job_row(job), **shown}}


async def found(request: Request, key: JobKey) -> Job:
    stored = await read_job(deps_of(request).ctx.store, key)
    if stored is None:
        raise FleetError(ErrorCode.NOT_FOUND, f"there is no job {key.job_id} in product {key.product_id}")
    return stored.job


class HolderPatch(Schema):
    """What a holder says of its term: one of `stage: building`, `checkpoint`, or `result`."""

    lease_epoch: Annotated[int, Field(ge=1)]
    session_id: str = "rest"
    session_no: int | None = None
    ask_no: int = 0
    stage: Literal["building"] | None = None
    checkpoint: dict[str, Any] | None = None
    result: Result | None = None
    insights: Insights = Insights()
    resets_at: str | None = None
    next: NextRequest | None = None


@router.patch("/{job_id}", summary="The holder: started, checkpoint, or report")
async def patch_job(request: Request, principal: Factory, job_id: str, body: HolderPatch) -> dict[str, Any]:
    ctx = deps_of(request).ctx
    key = job_key(request, principal, job_id)
    term: dict[str, Any] = {
        "factoryId": principal.id,
        "sessionId": body.session_id,
        "askNo": body.ask_no,
        "productId": key.product_id,
        "jobId": key.job_id,
        "leaseEpoch": body.lease_epoch,
    }
    if body.result is not None:
        report = ReportRequest.model_validate(
            {
                **term,
                "result": body.result,
                "insights": body.insights,
                "checkpoint": _checkpoint(body.checkpoint),
                "resetsAt": body.resets_at,
                "sessionNo": body.session_no,
                "next": body.next,
            }
        )
        answer = await terms.report(ctx, report)
        if answer.report_error is not None and body.next is None:
            raise FleetError.from_doc(answer.report_error)
        return answer.to_doc()
    if body.checkpoint is not None:
        return (await terms.checkpoint(ctx, CheckpointRequest.model_validate({**term, **body.checkpoint}))).to_doc()
    if body.stage is not None:
        return (await terms.start(ctx, StartRequest.model_validate(term))).to_doc()
    raise FleetError(ErrorCode.INVALID_REQUEST, "found neither stage, checkpoint nor result; allowed is one of them")


def _checkpoint(doc: dict[str, Any] | None) -> Checkpoint | None:
    return None if doc is None else Checkpoint.model_validate(doc)


@router.post("/{job_id}/lease/release", summary="The holder gives the job back")
async def release(request: Request, principal: Factory, job_id: str, body: dict[str, Any]) -> dict[str, Any]:
    key = job_key(request, principal, job_id)
    term = {**body, "factoryId": principal.id, "productId": key.product_id, "jobId": key.job_id}
    return (await terms.release(deps_of(request).ctx, ReleaseRequest.model_validate(term))).to_doc()


class ActionBody(Schema):
    reason: LongText | None = None
    checkpoint: Checkpoint | None = None
    lease_epoch: int | None = None


def _done(applied: Applied) -> dict[str, Any]:
    return {"job": job_row(applied.job), "event": applied.event.to_doc(), "repeated": applied.repeated}


@router.post("/{job_id}/actions/{action}", summary="ship, requeue, reject, cancel or preempt")
async def act(
    request: Request,
    principal: Operator,
    job_id: str,
    action: str,
    body: ActionBody | None = None,
    key: IdempotencyKey = None,
) -> dict[str, Any]:
    """Without an Idempotency-Key the action is not safe to repeat."""
    ctx = deps_of(request).ctx
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


class ReviewBody(Schema):
    verdict: Literal["approve", "request_changes", "reject"]
    reason: LongText | None = None


@router.post("/{job_id}/review", summary="Approve, ask for changes, or reject")
async def review(
    request: Request, principal: Operator, job_id: str, body: ReviewBody, key: IdempotencyKey = None
) -> dict[str, Any]:
    ctx = deps_of(request).ctx
    target = job_key(request, principal, job_id)
    return _done(
        await actions.review(ctx, target, body.verdict, principal.actor, key or ctx.entropy.token(), body.reason)
    )
