"""Heartbeats: a factory lives, and says what it holds; the answer renews its terms and says which are over."""

from __future__ import annotations

from datetime import datetime

from coordinator import leases
from coordinator.context import Context
from coordinator.domain.ops import Cause
from coordinator.factories import change_factory, read_enrolled
from coordinator.handlers.answers import stop_order, term_times
from coordinator.handlers.sessions import check_session
from coordinator.leases import end_term
from coordinator.store.queries import StoredFactory, jobs_held_by
from schemas.factory import REST_SESSION, FactoryDoc, Health
from schemas.job import Job
from schemas.messages import HeartbeatAnswer, HeartbeatRequest, HeldTerm, RosterNote


async def heartbeat(ctx: Context, request: HeartbeatRequest) -> HeartbeatAnswer:
    now = ctx.clock.now()
    stored = await read_enrolled(ctx, request.factory_id)
    check_session(stored.factory, request.session_id, request.session_no)
    factory = await note_heartbeat(ctx, stored, request, now)
    held = {
        (job.product_id, job.id, job.lease_epoch): job
        for job in await jobs_held_by(ctx.store, factory.products, factory.id)
        if job.holder is not None and job.holder.session_id == request.session_id
    }
    terms = []
    for named in request.holding:
        job = held.pop((named.product_id, named.job_id, named.lease_epoch), None)
        terms.append(
            await renew_term(ctx, job)
            if job is not None
            else HeldTerm(
                product_id=named.product_id, job_id=named.job_id, lease_epoch=named.lease_epoch, granted=False
            )
        )
    for job in held.values():
        if is_missing(job, request):
            await end_term(ctx, job, Cause.MISSING, now)
    return HeartbeatAnswer(terms=tuple(terms), heartbeat_every_s=ctx.timers.heartbeat_s, now=ctx.clock.now())


def is_missing(job: Job, heartbeat: HeartbeatRequest) -> bool:
    """Only a heartbeat asked after the claim, in the same session, that names neither term nor request, says so."""
    holder = job.holder
    return (
        holder is not None
        and heartbeat.session_id != REST_SESSION
        and holder.session_id == heartbeat.session_id
        and heartbeat.ask_no >= holder.ask_no
        and holder.request_id not in heartbeat.pending
    )


async def renew_term(ctx: Context, job: Job) -> HeldTerm:
    expires_at = await leases.renew(ctx, job)
    return HeldTerm(
        product_id=job.product_id,
        job_id=job.id,
        lease_epoch=job.lease_epoch,
        granted=expires_at is not None,
        stop=stop_order(ctx, job),
        term=term_times(ctx, job, expires_at) if expires_at is not None else None,
    )


async def note_heartbeat(ctx: Context, stored: StoredFactory, request: HeartbeatRequest, now: datetime) -> FactoryDoc:
    """Written to the roster at once; to the store if other coordinators decide by the change, or after a while."""
    factory = stored.factory
    said = {
        "seat_limit": request.seat_limit,
        "seats_used": request.seats_used,
        "load": request.load,
        "health": request.health,
        "transport": request.transport,
        "draining": request.draining,
        "unfit": request.unfit,
        "free_disk_bytes": request.free_disk_bytes,
        "engines": factory.engines if request.engines is None else request.engines,
        "last_heartbeat_at": now,
    }
    entry = ctx.roster.get(factory.id)
    was_down = entry is None or ctx.roster.health(entry) is Health.DOWN
    heard = factory.model_copy(update=said)
    silent_s = ctx.clock.boot_s() - entry.stored_at_s if entry and entry.stored_at_s is not None else None
    lasting = ("seat_limit", "health", "transport", "draining", "unfit", "engines")
    changed = any(said[name] != getattr(factory, name) for name in lasting)

    def heard_now(doc: FactoryDoc) -> FactoryDoc:
        check_session(doc, request.session_id, request.session_no)  # a newer one may have come meanwhile
        return doc.model_copy(update=said)

    if changed or silent_s is None or silent_s >= ctx.timers.roster_store_s:
        heard = await change_factory(ctx, factory.id, heard_now, stored)
    ctx.roster.note(heard, heard=True, stored=False)
    ctx.roster.note_holding(factory.id, request.holding)
    note = RosterNote(factory=heard.to_doc() | {"tokenHashes": []}, heard_at=now, holding=request.holding)
    ctx.publisher.send_roster(factory.id, note)
    if was_down or changed:
        ctx.ready.wake()
        ctx.capacity.announce()
    return heard
