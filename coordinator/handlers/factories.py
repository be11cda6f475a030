"""Factories: enrolment, sessions, heartbeats. A higher session fences the lower ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from coordinator import leases
from coordinator.context import Context
from coordinator.domain.ops import Cause
from coordinator.handlers.answers import stop_order, term_times
from coordinator.leases import end_term
from coordinator.store.port import FACTORIES, Indefinite
from coordinator.store.queries import StoredFactory, all_factories, jobs_held_by, read_factory
from schemas.errors import ErrorCode, FleetError
from schemas.factory import REST_SESSION, REST_SESSION_NO, FactoryDoc, Health
from schemas.job import Engine, Job
from schemas.messages import (
    HeartbeatAnswer,
    HeartbeatRequest,
    HeldTerm,
    HelloAnswer,
    HelloRequest,
    RosterNote,
)

TRIES_MAX = 10
ALIVE_WITHIN_S = 15.0


async def enrolled(ctx: Context, factory_id: str) -> FactoryDoc:
    """The factory's document, read afresh. Raises not_found for one that nobody enrolled."""
    return (await _read(ctx, factory_id)).factory


async def _read(ctx: Context, factory_id: str) -> StoredFactory:
    entry = ctx.roster.get(factory_id)
    if entry is None:
        await refresh_roster(ctx)
        entry = ctx.roster.get(factory_id)
    stored = await read_factory(ctx.store, entry.doc.product_id, factory_id) if entry else None
    if stored is None:
        raise FleetError(ErrorCode.NOT_FOUND, f"factory {factory_id} is not enrolled", factoryId=factory_id)
    return stored


async def refresh_roster(ctx: Context) -> None:
    async for factory in all_factories(ctx.store):
        ctx.roster.note(factory, heard=False)


def session_checked(factory: FactoryDoc, session_id: str, session_no: int | None) -> None:
    """Raises fenced unless this is the factory's latest session (or, of one that never said hello, the REST one)."""
    if session_id == factory.session_id and session_no in (None, factory.session_no):
        return
    raise FleetError(
        ErrorCode.FENCED,
        f"session '{session_id}' of {factory.id} is not its latest, which is {factory.session_no}: stop now",
        sessionNo=factory.session_no,
    )


async def update_factory(
    ctx: Context,
    factory_id: str,
    change: Callable[[FactoryDoc], FactoryDoc | None],
    known: StoredFactory | None = None,
) -> FactoryDoc:
    """Conditional read-change-write; `change` gives None where there is nothing to write, and may raise. `known`: a
    first read that was made already.
    """
    for tries in range(TRIES_MAX):
        stored = known if known is not None and tries == 0 else await _read(ctx, factory_id)
        changed = change(stored.factory)
        if changed is None:
            return stored.factory
        changed = changed.model_copy(update={"rev": stored.factory.rev + 1})
        try:
            if (await ctx.store.update(FACTORIES, changed.to_doc(), stored.etag)).ok:
                ctx.roster.note(changed, heard=False, stored=True)
                return changed
        except Indefinite:
            continue  # read again: `change` sees whether there is anything left to do
    raise FleetError(ErrorCode.UNAVAILABLE, f"the document of {factory_id} could not be written: ask again")


async def enroll(ctx: Context, factory: FactoryDoc, homes: Mapping[str, str] | None = None) -> FactoryDoc:
    """Creates the factory, or changes what an existing one may do; its session stays.

    The tokens are those that are given: what was replaced or taken out opens nothing any more.
    Raises conflict where another product has a factory of that name: subjects and terms know a factory by its id alone.
    `homes`: what `homes_of_factories` gave, for whoever enrols many.
    """
    for _ in range(TRIES_MAX):
        try:
            stored = await read_factory(ctx.store, factory.product_id, factory.id)
            if stored is None:
                _refuse_taken(factory, await homes_of_factories(ctx) if homes is None else homes)
                if (await ctx.store.create(FACTORIES, factory.to_doc())).ok:
                    return _enrolled_now(ctx, factory)
                continue
            wanted = stored.factory.model_copy(
                update={
                    "products": factory.products,
                    "enrolled_capabilities": factory.enrolled_capabilities,
                    "capabilities": _within(stored.factory.capabilities, factory.enrolled_capabilities),
                    "token_hashes": factory.token_hashes,
                    "bus_key": factory.bus_key or stored.factory.bus_key,
                }
            )
            if wanted == stored.factory:
                ctx.roster.note(stored.factory, heard=False)
                return stored.factory
            wanted = wanted.model_copy(update={"rev": stored.factory.rev + 1})
            if (await ctx.store.update(FACTORIES, wanted.to_doc(), stored.etag)).ok:
                return _enrolled_now(ctx, wanted)
        except Indefinite:
            continue
    raise FleetError(ErrorCode.UNAVAILABLE, f"{factory.id} could not be enrolled: ask again")


async def homes_of_factories(ctx: Context) -> dict[str, str]:
    """The product under which each is enrolled, by its id. Reads them all."""
    return {known.id: known.product_id async for known in all_factories(ctx.store)}


def _refuse_taken(factory: FactoryDoc, homes: Mapping[str, str]) -> None:
    home = homes.get(factory.id, factory.product_id)
    if home != factory.product_id:
        raise FleetError(
            ErrorCode.CONFLICT,
            f"factory {factory.id} is enrolled for product {home}: name this one otherwise, or enrol it"
            f" there with {factory.product_id} among its products",
            productId=home,
        )


def _enrolled_now(ctx: Context, factory: FactoryDoc) -> FactoryDoc:
    ctx.roster.note(factory, heard=False, stored=True)
    ctx.ready.wake()
    ctx.capacity.announce()
    return factory


def _within(capabilities: tuple[str, ...], enrolled: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(capabilities) & set(enrolled)))


async def gate_engine(ctx: Context, factory_id: str, engine: Engine, until: datetime) -> None:
    """The credential is used up until then: the factory gets no job of this engine meanwhile."""

    def change(factory: FactoryDoc) -> FactoryDoc | None:
        known = factory.gated.get(engine)
        if known is not None and known >= until:
            return None
        return factory.model_copy(update={"gated": {**factory.gated, engine: until}})

    await update_factory(ctx, factory_id, change)


async def hello(ctx: Context, request: HelloRequest) -> HelloAnswer:
    """Opens a session; the higher number wins. Then the terms of lower sessions end.

    A hello without a number opens nothing: it is answered with the number to say hello with, so that a late
    duplicate of it cannot replace a session that came after it.
    """
    now = ctx.clock.now()
    if request.session_id == REST_SESSION:
        raise FleetError(ErrorCode.INVALID_REQUEST, f"sessionId: found '{REST_SESSION}', which opens no session")
    if request.session_no is None:
        known = await enrolled(ctx, request.factory_id)
        _refuse_living(ctx, known, request.takeover, now)
        return _hello_answer(ctx, known, known.session_no + 1, opened=False)
    number = request.session_no

    def change(factory: FactoryDoc) -> FactoryDoc | None:
        if factory.session_id == request.session_id:
            return None  # the repeat of a hello that was accepted
        if number <= factory.session_no:
            raise FleetError(
                ErrorCode.FENCED,
                f"session {number} of {factory.id} is not above {factory.session_no}: an old or a second process",
                sessionNo=factory.session_no,
            )
        return factory.model_copy(
            update={
                "session_id": request.session_id,
                "session_no": number,
                "capabilities": _within(request.capabilities, factory.enrolled_capabilities),
                "engines": tuple(sorted(set(request.engines))),
                "workspaces": request.workspaces,
                "seat_limit": request.seat_limit,
                "seats_used": 0,
                "transport": request.transport,
                "draining": False,
                "version": request.version,
                "os": request.os,
                "free_disk_bytes": request.free_disk_bytes,
                "last_heartbeat_at": now,
            }
        )

    factory = await update_factory(ctx, request.factory_id, change)
    ctx.roster.note(factory, heard=True)
    await end_lower_sessions(ctx, factory, now)
    ctx.ready.wake()
    ctx.capacity.announce()
    beyond = sorted(set(request.capabilities) - set(factory.enrolled_capabilities))
    warnings = (f"not enrolled for, and left out: {', '.join(beyond)}",) if beyond else ()
    return _hello_answer(ctx, factory, factory.session_no, opened=True, warnings=warnings)


def _hello_answer(
    ctx: Context, factory: FactoryDoc, session_no: int, *, opened: bool, warnings: tuple[str, ...] = ()
) -> HelloAnswer:
    return HelloAnswer(
        opened=opened,
        session_no=session_no,
        products=factory.products,
        capabilities=factory.capabilities if opened else None,
        heartbeat_every_s=ctx.timers.heartbeat_s,
        lease_ttl_s=ctx.timers.lease_ttl_s,
        trust_margin_s=ctx.timers.trust_margin_s,
        warnings=warnings,
        now=ctx.clock.now(),
    )


def _refuse_living(ctx: Context, factory: FactoryDoc, takeover: bool, now: datetime) -> None:
    """By what this coordinator heard, and by what the store was told, which may be older."""
    if takeover or factory.session_no == REST_SESSION_NO:
        return
    entry = ctx.roster.get(factory.id)
    heard_s = ctx.clock.boot_s() - entry.heard_at_s if entry and entry.heard_at_s is not None else None
    stored_s = (now - factory.last_heartbeat_at).total_seconds() if factory.last_heartbeat_at else None
    alive = heard_s is not None and heard_s <= ALIVE_WITHIN_S
    if alive or (stored_s is not None and stored_s <= ALIVE_WITHIN_S + ctx.timers.roster_store_s):
        raise FleetError(
            ErrorCode.FENCED,
            f"another session of {factory.id} was alive a moment ago: stop it first, or say --takeover",
            sessionNo=factory.session_no,
        )


async def end_lower_sessions(ctx: Context, factory: FactoryDoc, now: datetime) -> int:
    """Ends the terms of sessions below the factory's latest. The reaper repeats it if this dies on the way."""
    ended = 0
    for job in await jobs_held_by(ctx.store, factory.products, factory.id):
        if job.holder is not None and job.holder.session_no < factory.session_no:
            await end_term(ctx, job, Cause.SESSION_GONE, now)
            ended += 1
    return ended


async def heartbeat(ctx: Context, request: HeartbeatRequest) -> HeartbeatAnswer:
    now = ctx.clock.now()
    stored = await _read(ctx, request.factory_id)
    session_checked(stored.factory, request.session_id, request.session_no)
    factory = await _noted(ctx, stored, request, now)
    held = {
        (job.product_id, job.id, job.lease_epoch): job
        for job in await jobs_held_by(ctx.store, factory.products, factory.id)
        if job.holder is not None and job.holder.session_id == request.session_id
    }
    terms = []
    for named in request.holding:
        job = held.pop((named.product_id, named.job_id, named.lease_epoch), None)
        terms.append(
            await _held_term(ctx, job)
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


async def _held_term(ctx: Context, job: Job) -> HeldTerm:
    expires_at = await leases.renew(ctx.store, ctx.clock, job, ctx.timers.lease_ttl_s)
    return HeldTerm(
        product_id=job.product_id,
        job_id=job.id,
        lease_epoch=job.lease_epoch,
        granted=expires_at is not None,
        stop=stop_order(ctx, job),
        term=term_times(ctx, job, expires_at) if expires_at is not None else None,
    )


async def _noted(ctx: Context, stored: StoredFactory, request: HeartbeatRequest, now: datetime) -> FactoryDoc:
    """In the roster at once; in the store when it changed what others decide by, or every so often."""
    factory = stored.factory
    said = {
        "seat_limit": request.seat_limit,
        "seats_used": request.seats_used,
        "load": request.load,
        "health": request.health,
        "transport": request.transport,
        "draining": request.draining,
        "free_disk_bytes": request.free_disk_bytes,
        "engines": factory.engines if request.engines is None else request.engines,
        "last_heartbeat_at": now,
    }
    entry = ctx.roster.get(factory.id)
    was_down = entry is None or ctx.roster.health(entry) is Health.DOWN
    heard = factory.model_copy(update=said)
    silent_s = ctx.clock.boot_s() - entry.stored_at_s if entry and entry.stored_at_s is not None else None
    lasting = ("seat_limit", "health", "transport", "draining", "engines")
    changed = any(said[name] != getattr(factory, name) for name in lasting)

    def change(doc: FactoryDoc) -> FactoryDoc:
        session_checked(doc, request.session_id, request.session_no)  # a newer one may have come meanwhile
        return doc.model_copy(update=said)

    if changed or silent_s is None or silent_s >= ctx.timers.roster_store_s:
        heard = await update_factory(ctx, factory.id, change, stored)
    ctx.roster.note(heard, heard=True, stored=False)
    ctx.publisher.send_roster(factory.id, RosterNote(factory=heard.to_doc() | {"tokenHashes": []}, heard_at=now))
    if was_down or changed:
        ctx.ready.wake()
        ctx.capacity.announce()
    return heard
