"""Claims: idempotent by (factory, session, requestId), one conditional commit per grant."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from coordinator.claimants import view_of
from coordinator.context import Context
from coordinator.domain import lease as lease_rules
from coordinator.domain.job import illegal
from coordinator.domain.ops import Claim, Rejected
from coordinator.domain.table import Action
from coordinator.handlers.answers import CODES, accepted, stop_order, term_times
from coordinator.handlers.factories import enrolled, session_checked
from coordinator.scheduler.feasible import obstacles
from coordinator.scheduler.plan import choice_of, ranked_jobs
from coordinator.scheduler.snapshot import FactoryView, Snapshot
from coordinator.store.port import JOBS, Address
from coordinator.store.queries import StoredJob, jobs_held_by, read_job, read_lease
from schemas.errors import ErrorCode, FleetError
from schemas.ids import JobKey, body_id, claim_op
from schemas.job import Job, Stage
from schemas.messages import ClaimAnswer, ClaimRequest, Grant
from schemas.projections import LeaseStatus

LOOKS_MAX = 8
OF_THE_JOB = frozenset({ErrorCode.CONFLICT, ErrorCode.BUDGET_PAUSED})  # refusals that meet whoever asks
CANDIDATES_MAX = 32  # tried per look: each costs a read, and a loser's read is wasted


async def claim(ctx: Context, request: ClaimRequest, gone: asyncio.Future[None] | None = None) -> ClaimAnswer:
    """Waits up to `waitS` for something to claim. Raises fenced, not_found, no_capability, conflict, unavailable.

    Once `gone` is done the asker hears no more: it is looked for no longer, so that nothing is committed for nobody.
    """
    deadline_s = ctx.clock.boot_s() + min(request.wait_s, ctx.timers.long_poll_s)
    while True:
        looked = ctx.claimants.changes
        try:
            async with ctx.asks.turn(request.factory_id):
                answer = await _claim_once(ctx, request)
        finally:
            ctx.claimants.looked(request)
        left_s = deadline_s - ctx.clock.boot_s()
        if answer.grants or left_s <= 0 or ctx.closing.is_set():
            return answer
        if not await ctx.claimants.wait(request, looked, left_s, gone):
            return answer


async def _claim_once(ctx: Context, request: ClaimRequest) -> ClaimAnswer:
    key = _known_key(ctx, request)
    if key is None:
        return await _claimed(ctx, request, None)
    while True:
        wanted = await _refused_if_taken(ctx, request, key)
        if wanted is None or not _seems_to_fit(ctx, request, wanted.job):
            return await _claimed(ctx, request, wanted)  # most likely refused, for which nobody needs to wait
        other = ctx.claimants.being_claimed.get(key)
        if other is None:
            break
        await other.wait()  # all who wait look together when it is over
    with ctx.claimants.claiming(key):
        try:
            return await _claimed(ctx, request, wanted)
        except BaseException as error:
            if not (isinstance(error, FleetError) and error.code in OF_THE_JOB):
                ctx.claimants.not_taken(key)
            raise


def _seems_to_fit(ctx: Context, request: ClaimRequest, job: Job) -> bool:
    """By what is known in memory."""
    entry = ctx.roster.get(request.factory_id)
    assert entry is not None, "its product was looked up there"
    view = view_of(entry.doc, request, ctx.ready.count_held_by(entry.doc.id))
    return not obstacles(job, view, Snapshot(now=ctx.clock.now(), factories=(), locks=ctx.ready.locks()))


async def _claimed(ctx: Context, request: ClaimRequest, wanted: StoredJob | None) -> ClaimAnswer:
    """`wanted`: the job that is claimed by its id, where it was read."""
    factory = await enrolled(ctx, request.factory_id)
    session_checked(factory, request.session_id, request.session_no)
    ctx.roster.note(factory, heard=False)
    ctx.roster.heard(factory.id)
    held = await jobs_held_by(ctx.store, factory.products, factory.id)
    known = [
        job
        for job in held
        if job.holder is not None
        and (job.holder.session_id, job.holder.request_id) == (request.session_id, request.request_id)
    ]
    if known:
        return ClaimAnswer(grants=tuple([await _granted_before(ctx, job) for job in known]))
    request = request.model_copy(update={"session_no": factory.session_no})
    view = view_of(factory, request, len(held))
    if request.job_id is not None:
        return ClaimAnswer(grants=(await _claim_named(ctx, request, view, wanted),))
    return await _claim_best(ctx, request, view)


def _known_key(ctx: Context, request: ClaimRequest) -> JobKey | None:
    """Of a claim by id, by what is known of the asker: None where it names no product, or one that it is not known to
    serve, or where its session may be superseded.
    """
    entry = ctx.roster.get(request.factory_id)
    if request.job_id is None or entry is None or request.product_id not in entry.doc.products:
        return None
    if entry.doc.session_id != request.session_id:
        return None
    return JobKey(request.product_id, request.job_id)


async def _refused_if_taken(ctx: Context, request: ClaimRequest, key: JobKey) -> StoredJob | None:
    """A crowd that claims one job by its id: all but the first cost no more than a read of the job, which they share.

    It is refused by that read alone, which began after the claim came; whatever else there is to say is said of a job
    that can be claimed, or that this request has. That one is given.
    """
    stored = await ctx.job_reads.fresh(key, lambda: read_job(ctx.store, key))
    if stored is None or stored.job.stage is Stage.QUEUED:
        return stored
    holder = stored.job.holder
    if holder is not None and (holder.factory_id, holder.request_id) == (request.factory_id, request.request_id):
        return stored
    ctx.ready.note(stored.job)
    ctx.roster.heard(request.factory_id)
    raise _refusal(illegal(stored.job, Action.CLAIM, "holder"))


async def _claim_named(ctx: Context, request: ClaimRequest, view: FactoryView, stored: StoredJob | None) -> Grant:
    key = await _named(request, view)
    stored = stored or await read_job(ctx.store, key)
    if stored is None:
        raise FleetError(ErrorCode.NOT_FOUND, f"there is no job {key.job_id} in product {key.product_id}")
    ctx.ready.note(stored.job)
    against = [one for one in obstacles(stored.job, view, ctx.snapshot(view)) if one.filter != "lock"]
    if against:  # the lock's guard decides about the lock, not the index
        raise FleetError(ErrorCode.NO_CAPABILITY, against[0].text, filter=against[0].filter)
    outcome = await _try(ctx, request, stored.job, view)
    if isinstance(outcome, Rejected):
        raise _refusal(outcome)
    return outcome


def _refusal(rejected: Rejected) -> FleetError:
    code = ErrorCode.CONFLICT if rejected.reason == "illegal_transition" else CODES[rejected.reason]
    return FleetError(code, rejected.message, **rejected.detail)


async def _named(request: ClaimRequest, view: FactoryView) -> JobKey:
    assert request.job_id is not None
    product_id = request.product_id
    if product_id is None:
        if len(view.products) != 1:
            raise FleetError(ErrorCode.INVALID_REQUEST, "a claim of a job by its id names its productId too")
        (product_id,) = view.products
    if product_id not in view.products:
        raise FleetError(ErrorCode.FORBIDDEN, f"{view.id} is not enrolled for product {product_id}")
    return JobKey(product_id, request.job_id)


async def _claim_best(ctx: Context, request: ClaimRequest, view: FactoryView) -> ClaimAnswer:
    seats = min(request.max, view.seats_free)
    if view.draining:
        return ClaimAnswer(reason=f"{view.id} is draining")
    if seats == 0:
        return ClaimAnswer(reason=f"all {view.seat_limit} seats of {view.id} are taken")
    for _ in range(LOOKS_MAX):
        grants, tries = await _look(ctx, request, view, seats)
        if grants:
            return ClaimAnswer(grants=tuple(grants))
        if tries < CANDIDATES_MAX:
            break  # else the index was far behind: what was refused has corrected it
    return ClaimAnswer(reason="no job that this factory could run is waiting")


async def _look(ctx: Context, request: ClaimRequest, view: FactoryView, seats: int) -> tuple[list[Grant], int]:
    """The grants of one pass over the index, and how many candidates were refused for their own sake."""
    grants: list[Grant] = []
    tries, refused = 0, set[tuple[str, str | None]]()
    for job in _candidates(ctx, request, view):
        if len(grants) == seats or tries == CANDIDATES_MAX:
            break
        if ctx.claimants.pass_over(job.key):
            continue
        if refused & {(job.product_id, None), (job.product_id, job.lock or "")}:
            continue
        outcome = await _try_alone(ctx, request, job, view)
        if isinstance(outcome, Grant):
            grants.append(outcome)
        elif outcome.reason == "budget_paused":
            refused.add((job.product_id, None))
        elif outcome.reason == "lock_busy":
            refused.add((job.product_id, job.lock))
        else:
            tries += 1
    return grants, tries


async def _try_alone(ctx: Context, request: ClaimRequest, job: Job, view: FactoryView) -> Grant | Rejected:
    """While it lasts, other asks of this process pass the job over; if it breaks, they look again."""
    with ctx.claimants.claiming(job.key):
        try:
            return await _try(ctx, request, job, view)
        except BaseException:
            ctx.ready.wake()
            raise


def _candidates(ctx: Context, request: ClaimRequest, view: FactoryView) -> list[Job]:
    waiting = ctx.claimants.claimable()
    if request.product_id is not None:
        waiting = [job for job in waiting if job.product_id == request.product_id]
    return ranked_jobs(waiting, view, ctx.snapshot(view))


async def _try(ctx: Context, request: ClaimRequest, job: Job, view: FactoryView) -> Grant | Rejected:
    assert request.session_no is not None
    op = Claim(
        id=claim_op(view.id, request.session_no, request.session_id, request.request_id),
        actor=f"factory:{view.id}",
        factory_id=view.id,
        session_id=request.session_id,
        session_no=request.session_no,
        ask_no=request.ask_no,
        request_id=request.request_id,
        choice=choice_of(job, view, ctx.snapshot(view)),
    )
    outcome = await ctx.transactor.transact(job.key, op)
    if isinstance(outcome, Rejected):
        stored = await read_job(ctx.store, job.key)
        if stored is not None:
            ctx.ready.note(stored.job)
        return outcome
    won = accepted(outcome).job
    if (
        won.holder is None
        or won.holder.request_id != request.request_id
        or won.lease_epoch != outcome.event.lease_epoch
    ):
        return Rejected("conflict", f"the grant of {job.id} under this request has ended already")
    return await grant_of(ctx, won, won.stage_since + timedelta(seconds=ctx.timers.lease_ttl_s))


async def _granted_before(ctx: Context, job: Job) -> Grant:
    """The same grant again, with no more time than it has left."""
    stored = await read_lease(ctx.store, job.id, job.lease_epoch)
    lease = stored.lease if stored else None
    ending = lease is not None and lease.status is LeaseStatus.CLOSED
    expires_at = ctx.clock.now() if ending else lease_rules.expires_at(job, lease, ctx.timers.lease_ttl_s)
    return await grant_of(ctx, job, expires_at)


async def grant_of(ctx: Context, job: Job, expires_at: datetime) -> Grant:
    assert job.holder is not None
    return Grant(
        product_id=job.product_id,
        job_id=job.id,
        lease_epoch=job.lease_epoch,
        request_id=job.holder.request_id,
        run_id=job.holder.run_id,
        attempt=job.attempt,
        title=job.title,
        engine=job.engine,
        manifest_snapshot=job.manifest_snapshot,
        body_md=await body_of(ctx, job),
        profile=job.profile,
        repo=job.repo,
        cwd=job.cwd,
        ref=job.ref,
        verify=job.verify,
        timeout_s=job.timeout_s,
        budget=job.budget,
        yolo=job.yolo,
        checkpoint=job.checkpoint,
        started=job.stage is Stage.BUILDING,
        stop=stop_order(ctx, job),
        term=term_times(ctx, job, expires_at),
    )


async def body_of(ctx: Context, job: Job) -> str:
    if job.body_md is not None:
        return job.body_md
    stored = await ctx.store.read(Address(JOBS, job.product_id, body_id(job.id, job.manifest_sha256)))
    if stored is None:
        raise FleetError(ErrorCode.INTERNAL, f"the body of {job.id} is missing from the store")
    return str(stored.doc["bodyMd"])
