"""What a holder says of its term: started, checkpoint, renewal, report, release."""

from __future__ import annotations

from datetime import timedelta

from coordinator import leases
from coordinator.context import Context
from coordinator.domain.ops import End, HolderOp, SaveCheckpoint, Start
from coordinator.domain.patches import ships_at_once
from coordinator.domain.table import Action
from coordinator.handlers.answers import check_applied, stop_order, term_times
from coordinator.handlers.claims import claim
from coordinator.handlers.quotas import gate_engine
from coordinator.scheduler.feasible import obstacles
from coordinator.store.queries import read_job, read_run
from coordinator.transact import Applied
from schemas.errors import ErrorCode, FleetError
from schemas.ids import JobKey, checkpoint_op, end_op, run_id, start_op
from schemas.job import Job, Stage
from schemas.messages import (
    CheckpointRequest,
    ClaimAnswer,
    ClaimRequest,
    EndAnswer,
    FromHolder,
    ReleaseRequest,
    RenewRequest,
    ReportAnswer,
    ReportRequest,
    StartRequest,
    TermAnswer,
)
from schemas.outcome import Outcome, Result
from schemas.work import Checkpoint


def key_of(request: FromHolder) -> JobKey:
    return JobKey(request.product_id, request.job_id)


def _fenced(key: JobKey, lease_epoch: int, why: str) -> FleetError:
    return FleetError(ErrorCode.FENCED, f"term {lease_epoch} of {key.job_id} {why}: stop now", leaseEpoch=lease_epoch)


async def check_holder(ctx: Context, key: JobKey, factory_id: str, session_id: str, lease_epoch: int) -> Job:
    """The job as it stands, held by exactly the asker. Raises not_found or fenced."""
    stored = await read_job(ctx.store, key)
    if stored is None:
        raise FleetError(ErrorCode.NOT_FOUND, f"there is no job {key.job_id} in product {key.product_id}")
    if not stored.job.is_held_by(factory_id, session_id, lease_epoch):
        raise _fenced(key, lease_epoch, "is not yours")
    return stored.job


async def check_held_or_was(ctx: Context, key: JobKey, factory_id: str, session_id: str, lease_epoch: int) -> None:
    """Raises fenced unless this session holds the term, or held it before: by the record of its run."""
    stored = await read_job(ctx.store, key)
    if stored is not None and stored.job.is_held_by(factory_id, session_id, lease_epoch):
        return
    if stored is None:
        raise FleetError(ErrorCode.NOT_FOUND, f"there is no job {key.job_id} in product {key.product_id}")
    run = await read_run(ctx.store, key.job_id, run_id(key.job_id, lease_epoch))
    if run is None or (run.factory_id, run.session_id) != (factory_id, session_id):
        raise _fenced(key, lease_epoch, "is not yours")


async def _term_answer(ctx: Context, request: FromHolder, rewrite_after_s: float | None = None) -> TermAnswer:
    """A holder may trust an answer only if it comes from a lease document: read, renewed or made."""
    key, epoch = key_of(request), request.lease_epoch
    job = await check_holder(ctx, key, request.factory_id, request.session_id, epoch)
    expires_at = await leases.renew(ctx, job, rewrite_after_s=rewrite_after_s)
    if expires_at is None:
        raise _fenced(key, epoch, "is being ended by the coordinator")
    return TermAnswer(stage=job.stage, stop=stop_order(ctx, job), term=term_times(ctx, job, expires_at))


async def renew(ctx: Context, request: RenewRequest) -> TermAnswer:
    ctx.roster.heard(request.factory_id)
    return await _term_answer(ctx, request)


async def start(ctx: Context, request: StartRequest) -> TermAnswer:
    op = Start(
        id=start_op(request.job_id, request.lease_epoch),
        actor=f"factory:{request.factory_id}",
        factory_id=request.factory_id,
        session_id=request.session_id,
        lease_epoch=request.lease_epoch,
    )
    await ask_transition(ctx, request, op)
    return await _term_answer(ctx, request, rewrite_after_s=ctx.timers.grant_start_s)


async def checkpoint(ctx: Context, request: CheckpointRequest) -> TermAnswer:
    saved = Checkpoint(
        ref=request.ref,
        commit=request.commit,
        at=ctx.clock.now(),
        number=request.number,
        local=request.factory_id if request.local else None,
    )
    op = SaveCheckpoint(
        id=checkpoint_op(request.job_id, request.lease_epoch, request.number),
        actor=f"factory:{request.factory_id}",
        factory_id=request.factory_id,
        session_id=request.session_id,
        lease_epoch=request.lease_epoch,
        checkpoint=saved,
    )
    await ask_transition(ctx, request, op)
    return await _term_answer(ctx, request)


async def release(ctx: Context, request: ReleaseRequest) -> EndAnswer:
    result = Result(outcome=request.outcome, summary=request.reason)
    return await _end(ctx, request, Action.RELEASE, result, checkpoint=_own(request, request.checkpoint))


async def report(ctx: Context, request: ReportRequest) -> ReportAnswer:
    """The report and the ask for the next job are two commits with two answers; neither stops the other."""
    end: EndAnswer | None = None
    end_error: FleetError | None = None
    try:
        op_fields: dict[str, object] = {"insights": request.insights, "checkpoint": _own(request, request.checkpoint)}
        if request.result.outcome is Outcome.MACHINE_FAILED:
            op_fields["elsewhere"] = await _is_for_others(ctx, request)
        end = await _end(ctx, request, Action.REPORT, request.result, **op_fields)
    except FleetError as error:
        end_error = error
    if end is not None and request.result.outcome is Outcome.QUOTA_EXHAUSTED:
        until = request.resets_at or ctx.clock.now() + timedelta(seconds=ctx.timers.quota_gate_s)
        stored = await read_job(ctx.store, key_of(request))
        if stored is not None:
            await gate_engine(ctx, request.factory_id, stored.job.engine, until)
    next_answer, next_error = await _next(ctx, request)
    return ReportAnswer(
        report=end,
        report_error=end_error.to_doc() if end_error else None,
        next=next_answer,
        next_error=next_error.to_doc() if next_error else None,
    )


async def _is_for_others(ctx: Context, request: FromHolder) -> bool:
    """Whether a factory that is known here, and has not tried it in vain, could be given the job some time."""
    stored = await read_job(ctx.store, key_of(request))
    if stored is None:
        return True
    snapshot = ctx.snapshot()
    return any(
        view.id != request.factory_id and not any(one.lasting for one in obstacles(stored.job, view, snapshot))
        for view in snapshot.factories
    )


def _own(request: FromHolder, checkpoint: Checkpoint | None) -> Checkpoint | None:
    """A checkpoint may name only its sender's machine as the place of the work. Elsewhere nobody could go on."""
    if checkpoint is None or checkpoint.local is None:
        return checkpoint
    return checkpoint.model_copy(update={"local": request.factory_id})


async def _next(ctx: Context, request: ReportRequest) -> tuple[ClaimAnswer | None, FleetError | None]:
    if request.next is None:
        return None, None
    ask = ClaimRequest(
        factory_id=request.factory_id,
        session_id=request.session_id,
        session_no=request.session_no,
        ask_no=request.ask_no,
        request_id=request.next.request_id,
        max=request.next.max,
    )
    try:
        return await claim(ctx, ask), None
    except FleetError as error:
        return None, error


async def _end(ctx: Context, request: FromHolder, action: Action, result: Result, **fields: object) -> EndAnswer:
    op = End(
        id=end_op(request.job_id, request.lease_epoch),
        actor=f"factory:{request.factory_id}",
        factory_id=request.factory_id,
        session_id=request.session_id,
        lease_epoch=request.lease_epoch,
        result=result,
        jitter=ctx.entropy.fraction(),
        action=action,
        **fields,  # type: ignore[arg-type]
    )
    applied = await ask_transition(ctx, request, op)
    stage = Stage(applied.event.to_stage)
    return EndAnswer(stage=Stage.SHIPPED if ships_at_once(applied.job, stage) else stage, repeated=applied.repeated)


async def ask_transition(ctx: Context, request: FromHolder, op: HolderOp) -> Applied:
    applied = check_applied(await ctx.transactor.transact(key_of(request), op))
    ctx.roster.heard(request.factory_id)
    if (applied.event.actor, applied.event.data.get("sessionId")) != (op.actor, op.session_id):
        raise _fenced(
            key_of(request), request.lease_epoch, "is not yours"
        )  # the same op of this term, but accepted from somebody else
    return applied
