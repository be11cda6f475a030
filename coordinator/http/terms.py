"""What a holder says of its term: started, checkpoint, renewal, report, release."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Request

from coordinator.handlers import terms
from coordinator.http.app_state import context_of
from coordinator.http.auth import Factory, job_key
from coordinator.http.bodies import CheckpointBody, PatchBody, ReleaseBody, RenewBody
from coordinator.http.examples import terms as examples
from coordinator.http.examples.common import answers, named
from coordinator.http.json_routes import make_router
from schemas.errors import ErrorCode, FleetError
from schemas.messages import (
    EndAnswer,
    ReleaseRequest,
    RenewRequest,
    ReportAnswer,
    ReportRequest,
    StartRequest,
    TermAnswer,
)
from schemas.work import Checkpoint

router = make_router("terms", "/api/fleet/jobs")


@router.patch(
    "/{job_id}",
    summary="The holder: started, checkpoint, or report",
    responses=answers(examples.REPORT_ANSWER),
)
async def patch_job(
    request: Request,
    principal: Factory,
    job_id: str,
    body: Annotated[
        PatchBody,
        Body(openapi_examples=named(start=examples.START, checkpoint=examples.CHECKPOINT, report=examples.REPORT)),
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
    responses=answers(examples.END_ANSWER),
)
async def release(
    request: Request,
    principal: Factory,
    job_id: str,
    body: Annotated[ReleaseBody, Body(openapi_examples=named(release=examples.RELEASE))],
) -> EndAnswer:
    asked = ReleaseRequest(
        **body.term(principal, job_key(request, principal, job_id)),
        outcome=body.outcome,
        reason=body.reason,
        checkpoint=_checkpoint(request, body.checkpoint),
    )
    return await terms.release(context_of(request), asked)


@router.post("/{job_id}/lease/renew", summary="The holder lives", responses=answers(examples.TERM_ANSWER))
async def renew(
    request: Request,
    principal: Factory,
    job_id: str,
    body: Annotated[RenewBody, Body(openapi_examples=named(renew=examples.RENEW))],
) -> TermAnswer:
    """The answer carries `stop` where the work must end, and what is left of the lease."""
    key = job_key(request, principal, job_id)
    return await terms.renew(context_of(request), RenewRequest(**body.term(principal, key)))
