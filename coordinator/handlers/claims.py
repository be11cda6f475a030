"""Claims: idempotent by (factory, session, requestId), one conditional commit per grant."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from coordinator.context import Context
from coordinator.dispatch.waiters import view_of
from coordinator.domain.ops import Claim, Rejected
from coordinator.domain.refusals import illegal
from coordinator.domain.table import Action
from coordinator.factories import read_enrolled
from coordinator.handlers.answers import CODES
from coordinator.handlers.grants import grant_again, grant_of
from coordinator.handlers.sessions import check_session
from coordinator.scheduler.feasible import obstacles
from coordinator.scheduler.plan import choice_of, ranked_jobs
from coordinator.scheduler.snapshot import FactoryView, Snapshot
from coordinator.store.queries import StoredJob, jobs_held_by, read_job
from schemas.errors import ErrorCode, FleetError
from schemas.ids import JobKey, claim_op
from schemas.job import Job, Stage
from schemas.messages import ClaimAnswer, ClaimRequest, Grant

LOOKS_MAX = 8
CANDIDATES_MAX = 32  # tried per look: each costs a read, and a loser's read is wasted


@dataclass(frozen=True)
class Asker:
    """Who claims, read from the store: what it can take now, and what an earlier try of this request was granted."""

    request: ClaimRequest
    session_no: int
    view: FactoryView
    granted: tuple[Job, ...]

    def claim_of(self, job: Job, snapshot: Snapshot) -> Claim:
        one = self.request
        return Claim(
            id=claim_op(self.view.id, self.session_no, one.session_id, one.request_id),
            actor=f"factory:{self.view.id}",
            factory_id=self.view.id,
            session_id=one.session_id,
            session_no=self.session_no,
            ask_no=one.ask_no,
            request_id=one.request_id,
            choice=choice_of(job, self.view, snapshot),
        )


async def claim(ctx: Context, request: ClaimRequest, gone: asyncio.Future[None] | None = None) -> ClaimAnswer:
    """Waits up to `waitS` for something to claim. Raises fenced, not_found, no_capability, conflict, unavailable.

    Once `gone` is done the asker hears no more: nothing further is looked for, so that nothing is committed for nobody.
    """
    deadline_s = ctx.clock.boot_s() + min(request.wait_s, ctx.timers.long_poll_s)
    look = claim_best if request.job_id is None else partial(claim_named, gone=gone)
    while True:
        seen = ctx.waiters.changes
        try:
            async with ctx.asks.turn(request.factory_id):
                answer = ClaimAnswer() if _is_gone(gone) else await look(ctx, request)
        finally:
            ctx.waiters.looked(request)
        left_s = deadline_s - ctx.clock.boot_s()
        if answer.grants or left_s <= 0 or ctx.closing.is_set():
            return answer
        if not await ctx.waiters.wait(request, seen, left_s, gone):
            return answer


def _is_gone(gone: asyncio.Future[None] | None) -> bool:
    return gone is not None and gone.done()


async def read_asker(ctx: Context, request: ClaimRequest) -> Asker:
    """Raises not_found for a factory that nobody enrolled, and fenced for a session that is not its latest."""
    factory = (await read_enrolled(ctx, request.factory_id)).factory
    check_session(factory, request.session_id, request.session_no)
    ctx.roster.note(factory, heard=False)
    ctx.roster.heard(factory.id)
    held = await jobs_held_by(ctx.store, factory.products, factory.id)
    same_ask = (request.session_id, request.request_id)
    granted = [job for job in held if job.holder and (job.holder.session_id, job.holder.request_id) == same_ask]
    return Asker(request, factory.session_no, view_of(factory, request, len(held)), tuple(granted))


async def answer_again(ctx: Context, asker: Asker) -> ClaimAnswer:
    """The repeat of a claim is answered with what it was granted, and with no more."""
    return ClaimAnswer(grants=tuple([await grant_again(ctx, job) for job in asker.granted]))


# -- one job, by its id --


async def claim_named(ctx: Context, request: ClaimRequest, gone: asyncio.Future[None] | None = None) -> ClaimAnswer:
    """Asks of this process for one job take turns. A crowd shares the reads that tell all but one that it is taken."""
    key = crowded_key(ctx, request)
    if key is None:
        return await _claim_named(ctx, request, None)
    while True:
        stored = await read_unless_taken(ctx, request, key)
        if stored is None or not seems_to_fit(ctx, request, stored.job):
            return await _claim_named(ctx, request, stored)  # most likely refused: nobody needs to wait for it
        if not ctx.precedence.is_asked(key):
            break
        await ctx.waiters.ask_is_over(key)
        if _is_gone(gone):
            return ClaimAnswer()
    with ctx.waiters.first_at(key):
        return await _claim_named(ctx, request, stored)


def crowded_key(ctx: Context, request: ClaimRequest) -> JobKey | None:
    """The key of a claim by id. None if the request names no product, one that its factory is not known to serve, or
    if its session may be superseded.
    """
    entry = ctx.roster.get(request.factory_id)
    if request.job_id is None or entry is None or request.product_id not in entry.doc.products:
        return None
    if entry.doc.session_id != request.session_id:
        return None
    return JobKey(request.product_id, request.job_id)


async def read_unless_taken(ctx: Context, request: ClaimRequest, key: JobKey) -> StoredJob | None:
    """The job, by a read that began after the claim came and that a crowd shares. Raises conflict if it is taken.

    A job that can be claimed, or that this very request has, is given: all else about it is said by what follows.
    """
    stored = await ctx.job_reads.fresh(key, lambda: read_job(ctx.store, key))
    if stored is None or stored.job.stage is Stage.QUEUED:
        return stored
    holder = stored.job.holder
    if holder is not None and (holder.factory_id, holder.request_id) == (request.factory_id, request.request_id):
        return stored
    ctx.ready.note(stored.job)
    ctx.roster.heard(request.factory_id)
    raise refusal(illegal(stored.job, Action.CLAIM, "holder"))


def seems_to_fit(ctx: Context, request: ClaimRequest, job: Job) -> bool:
    """Decided by what is known in memory."""
    entry = ctx.roster.get(request.factory_id)
    assert entry is not None, "its product was looked up there"
    view = view_of(entry.doc, request, ctx.ready.count_held_by(entry.doc.id))
    return not obstacles(job, view, Snapshot(now=ctx.clock.now(), factories=(), locks=ctx.ready.locks()))


async def _claim_named(ctx: Context, request: ClaimRequest, stored: StoredJob | None) -> ClaimAnswer:
    """`stored`: the job, where it was read already."""
    asker = await read_asker(ctx, request)
    if asker.granted:
        return await answer_again(ctx, asker)
    key = named_key(asker)
    stored = stored or await read_job(ctx.store, key)
    if stored is None:
        raise FleetError(ErrorCode.NOT_FOUND, f"there is no job {key.job_id} in product {key.product_id}")
    ctx.ready.note(stored.job)
    snapshot = ctx.snapshot(asker.view)
    against = [one for one in obstacles(stored.job, asker.view, snapshot) if one.filter != "lock"]
    if against:  # the lock's guard decides about the lock, not the index
        raise FleetError(ErrorCode.NO_CAPABILITY, against[0].text, filter=against[0].filter)
    outcome = await try_job(ctx, asker, stored.job, snapshot)
    if isinstance(outcome, Rejected):
        raise refusal(outcome)
    return ClaimAnswer(grants=(outcome,))


def named_key(asker: Asker) -> JobKey:
    """Raises invalid_request for a job without its product where there are several, forbidden for a foreign product."""
    job_id, product_id = asker.request.job_id, asker.request.product_id
    assert job_id is not None
    if product_id is None:
        if len(asker.view.products) != 1:
            raise FleetError(ErrorCode.INVALID_REQUEST, "a claim of a job by its id names its productId too")
        (product_id,) = asker.view.products
    if product_id not in asker.view.products:
        raise FleetError(ErrorCode.FORBIDDEN, f"{asker.view.id} is not enrolled for product {product_id}")
    return JobKey(product_id, job_id)


def refusal(rejected: Rejected) -> FleetError:
    """A claim of a job that is not queued contradicts what is already so."""
    code = ErrorCode.CONFLICT if rejected.reason == "illegal_transition" else CODES[rejected.reason]
    return FleetError(code, rejected.message, **rejected.detail)


# -- the best job --


async def claim_best(ctx: Context, request: ClaimRequest) -> ClaimAnswer:
    """Up to `max` jobs, the best for this factory first. Without one, the answer says why."""
    asker = await read_asker(ctx, request)
    if asker.granted:
        return await answer_again(ctx, asker)
    view, seats = asker.view, min(request.max, asker.view.seats_free)
    if view.draining:
        return ClaimAnswer(reason=f"{view.id} is draining")
    if view.unfit is not None:
        return ClaimAnswer(reason=f"{view.id} takes no work: {view.unfit}")
    if seats == 0:
        return ClaimAnswer(reason=f"all {view.seat_limit} seats of {view.id} are taken")
    for _ in range(LOOKS_MAX):
        grants, tries = await look_once(ctx, asker, seats)
        if grants:
            return ClaimAnswer(grants=tuple(grants))
        if tries < CANDIDATES_MAX:
            break  # else the index was far behind: what was refused has corrected it
    return ClaimAnswer(reason="no job that this factory could run is waiting")


async def look_once(ctx: Context, asker: Asker, seats: int) -> tuple[list[Grant], int]:
    """The grants of one pass over the index, and how many candidates were refused for their own sake."""
    grants: list[Grant] = []
    tries, refused = 0, set[tuple[str, str | None]]()
    snapshot = ctx.snapshot(asker.view)
    for job in candidates(ctx, asker, snapshot):
        if len(grants) == seats or tries == CANDIDATES_MAX:
            break
        if ctx.precedence.is_asked(job.key):
            ctx.precedence.pass_over(job.key)
            continue
        if refused & {(job.product_id, None), (job.product_id, job.lock or "")}:
            continue
        with ctx.waiters.first_at(job.key):
            outcome = await try_job(ctx, asker, job, snapshot)
        if isinstance(outcome, Grant):
            grants.append(outcome)
        elif outcome.reason == "budget_paused":
            refused.add((job.product_id, None))
        elif outcome.reason == "lock_busy":
            refused.add((job.product_id, job.lock))
        else:
            tries += 1
    return grants, tries


def candidates(ctx: Context, asker: Asker, snapshot: Snapshot) -> list[Job]:
    """The queued jobs that are set aside for no other asker, best first for this factory."""
    product_id, now_s = asker.request.product_id, ctx.clock.boot_s()
    waiting = [
        job
        for job in ctx.ready.queued()
        if product_id in (None, job.product_id) and not ctx.precedence.is_set_aside(job.key, now_s)
    ]
    return ranked_jobs(waiting, asker.view, snapshot)


async def try_job(ctx: Context, asker: Asker, job: Job, snapshot: Snapshot) -> Grant | Rejected:
    """One conditional commit. A refusal corrects the index by the job that it rests on."""
    outcome = await ctx.transactor.transact(job.key, asker.claim_of(job, snapshot))
    if isinstance(outcome, Rejected):
        if outcome.job is not None:
            ctx.ready.note(outcome.job)
        return outcome
    won = outcome.job
    same_ask = won.holder is not None and won.holder.request_id == asker.request.request_id
    if not same_ask or won.lease_epoch != outcome.event.lease_epoch:
        return Rejected("conflict", f"the grant of {job.id} under this request has ended already")
    return await grant_of(ctx, won, won.stage_since + timedelta(seconds=ctx.timers.lease_ttl_s))
