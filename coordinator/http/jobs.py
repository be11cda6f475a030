"""Jobs: submit, list, read, the holder's PATCH, operators' actions and reviews."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Header, Query, Request, Response

from coordinator.handlers import actions, intake, terms
from coordinator.handlers.grants import read_body
from coordinator.http import examples
from coordinator.http.answers import (
    ActionAnswer,
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
from coordinator.http.auth import Anybody, Factory, Operator, Principal, job_key, product_of
from coordinator.http.bodies import (
    ActionBody,
    BatchBody,
    CheckpointBody,
    PatchBody,
    ReleaseBody,
    ReviewBody,
    SubmitBody,
)
from coordinator.http.json_routes import make_router
from coordinator.store.port import JOBS, Where
from coordinator.store.port import Query as StoreQuery
from coordinator.store.queries import read_job
from coordinator.transact import Applied
from schemas.errors import ErrorCode, FleetError
from schemas.ids import KEY_LENGTH_MAX, JobKey
from schemas.job import Checkpoint, Job, Stage
from schemas.messages import EndAnswer, ReleaseRequest, ReportAnswer, ReportRequest, StartRequest, TermAnswer

router = make_router("jobs", "/api/fleet/jobs")

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=KEY_LENGTH_MAX,
        description="The same key does it once, however often it is asked.",
    ),
]
FILTERED_PAGE = 200
PAGES_MAX = 20  # looked through for one answer; whoever wants more asks on with the cursor


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
        **examples.answers(examples.SUBMIT_ANSWER, 201, "submitted"),
        **examples.answers(examples.SUBMIT_ANSWER | {"repeated": True}, 200, "it was known already", SubmitAnswer),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "text/markdown": {"schema": {"type": "string"}, "example": examples.MANIFEST},
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
    responses=examples.answers(examples.BATCH_ANSWER),
)
async def submit_batch(
    request: Request,
    principal: Operator,
    body: Annotated[BatchBody, Body(openapi_examples=examples.named(chain=examples.BATCH))],
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


@router.get("", summary="List jobs, newest first", responses=examples.answers(examples.JOBS_PAGE))
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
    product_id = product_of(request, principal)
    where = (Where("stage", "=", str(stage)),) if stage else ()
    size = FILTERED_PAGE if capability or q else limit + 1
    rows: list[JobRow] = []
    for _ in range(PAGES_MAX):
        query = StoreQuery(JOBS, product_id, where, order="sortKey", descending=True, after=cursor, limit=size)
        page = await context_of(request).store.query(query)
        for stored in page:
            job = JobRow.model_validate(stored.doc)
            wanted = _wanted(job, capability, q)
            if wanted and len(rows) == limit:
                return JobsPage(jobs=tuple(rows), next_cursor=cursor)
            if wanted:
                rows.append(job)
            cursor = job.sort_key
        if len(page) < size:
            return JobsPage(jobs=tuple(rows), next_cursor=None)
    return JobsPage(jobs=tuple(rows), next_cursor=cursor)


def _wanted(job: Job, capability: str | None, q: str | None) -> bool:
    if capability is not None and capability not in job.capabilities:
        return False
    return q is None or q.lower() in job.title.lower() or q in job.id


@router.get("/{job_id}", summary="One job, with its manifest", responses=examples.answers(examples.JOB_ANSWER))
async def get_job(request: Request, principal: Anybody, job_id: str) -> JobAnswer:
    job = await found(request, job_key(request, principal, job_id))
    return JobAnswer(job=JobDetail.of_job(job, await read_body(context_of(request), job)))


async def found(request: Request, key: JobKey) -> Job:
    stored = await read_job(context_of(request).store, key)
    if stored is None:
        raise FleetError(ErrorCode.NOT_FOUND, f"there is no job {key.job_id} in product {key.product_id}")
    return stored.job


@router.patch(
    "/{job_id}",
    summary="The holder: started, checkpoint, or report",
    responses=examples.answers(examples.REPORT_ANSWER),
)
async def patch_job(
    request: Request,
    principal: Factory,
    job_id: str,
    body: Annotated[
        PatchBody,
        Body(
            openapi_examples=examples.named(
                start=examples.START, checkpoint=examples.CHECKPOINT, report=examples.REPORT
            )
        ),
    ],
) -> TermAnswer | ReportAnswer:
    """Start and checkpoint are answered as a renewal is. A report with `next` has two independent answers."""
    ctx = context_of(request)
    term = body.term(principal, job_key(request, principal, job_id))
    said = [name for name in ("stage", "checkpoint", "result") if getattr(body, name) is not None]
    match said:
        case ["stage"]:
            return await terms.start(ctx, StartRequest(**term))
        case ["checkpoint"]:
            return await terms.checkpoint(ctx, body.saved(term))
        case ["result"] | ["checkpoint", "result"]:
            return await _report(request, term, body)
    raise FleetError(
        ErrorCode.INVALID_REQUEST,
        f"found {' and '.join(said) or 'neither stage, checkpoint nor result'}; "
        "allowed is one of stage, checkpoint and result, or checkpoint with result",
    )


async def _report(request: Request, term: dict[str, Any], body: PatchBody) -> ReportAnswer:
    report = ReportRequest(
        **term,
        result=body.result,
        insights=body.insights,
        checkpoint=_checkpoint(request, body.checkpoint),
        resets_at=body.resets_at,
        session_no=body.session_no,
        next=body.next,
    )
    answer = await terms.report(context_of(request), report)
    if answer.report_error is not None and body.next is None:
        raise FleetError.from_doc(answer.report_error)
    return answer


def _checkpoint(request: Request, said: CheckpointBody | None) -> Checkpoint | None:
    """The handler puts the holder's own name where it says that the work lies on its machine."""
    if said is None:
        return None
    return Checkpoint(
        ref=said.ref,
        commit=said.commit,
        at=said.at or context_of(request).clock.now(),
        number=said.number,
        local="here" if said.local else None,
    )


@router.post(
    "/{job_id}/lease/release",
    summary="The holder gives the job back",
    responses=examples.answers(examples.END_ANSWER),
)
async def release(
    request: Request,
    principal: Factory,
    job_id: str,
    body: Annotated[ReleaseBody, Body(openapi_examples=examples.named(release=examples.RELEASE))],
) -> EndAnswer:
    asked = ReleaseRequest(
        **body.term(principal, job_key(request, principal, job_id)),
        outcome=body.outcome,
        reason=body.reason,
        checkpoint=_checkpoint(request, body.checkpoint),
    )
    return await terms.release(context_of(request), asked)


def _done(applied: Applied) -> ActionAnswer:
    return ActionAnswer(job=JobRow.of(applied.job), event=applied.event, repeated=applied.repeated)


@router.post(
    "/{job_id}/actions/{action}",
    summary="ship, requeue, reject, cancel or preempt",
    responses=examples.answers(examples.ACTION_ANSWER),
)
async def act(
    request: Request,
    principal: Operator,
    job_id: str,
    action: str,
    body: Annotated[
        ActionBody | None,
        Body(openapi_examples=examples.named(any=examples.ACTION, preempt=examples.PREEMPT)),
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
    responses=examples.answers(examples.REVIEW_ANSWER),
)
async def review(
    request: Request,
    principal: Operator,
    job_id: str,
    body: Annotated[ReviewBody, Body(openapi_examples=examples.named(approve=examples.REVIEW))],
    key: IdempotencyKey = None,
) -> ActionAnswer:
    """Each approver counts once; at the number that the manifest asks for the job goes on."""
    ctx = context_of(request)
    target = job_key(request, principal, job_id)
    return _done(
        await actions.review(ctx, target, body.verdict, principal.actor, key or ctx.entropy.token(), body.reason)
    )
