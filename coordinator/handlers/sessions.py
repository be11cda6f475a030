"""Sessions: one life of a factory's process each. A higher number fences the lower ones."""

from __future__ import annotations

from datetime import datetime

from coordinator.context import Context
from coordinator.domain.ops import Cause
from coordinator.factories import change_factory, read_enrolled, within
from coordinator.leases import end_term
from coordinator.store.queries import jobs_held_by
from schemas.errors import ErrorCode, FleetError
from schemas.factory import REST_SESSION, REST_SESSION_NO, FactoryDoc
from schemas.messages import HelloAnswer, HelloRequest


def check_session(factory: FactoryDoc, session_id: str, session_no: int | None) -> None:
    """Raises fenced unless this is the factory's latest session (or, of one that never said hello, the REST one)."""
    if session_id == factory.session_id and session_no in (None, factory.session_no):
        return
    raise FleetError(
        ErrorCode.FENCED,
        f"session '{session_id}' of {factory.id} is not its latest, which is {factory.session_no}: stop now",
        sessionNo=factory.session_no,
    )


async def hello(ctx: Context, request: HelloRequest) -> HelloAnswer:
    """Opens a session; the higher number wins. Then the terms of lower sessions end.

    A hello without a number opens nothing: it is answered with the number to say hello with, so that a late
    duplicate of it cannot replace a session that came after it.
    """
    now = ctx.clock.now()
    if request.session_id == REST_SESSION:
        raise FleetError(ErrorCode.INVALID_REQUEST, f"sessionId: found '{REST_SESSION}', which opens no session")
    if request.session_no is None:
        known = (await read_enrolled(ctx, request.factory_id)).factory
        check_replaceable(ctx, known, request.takeover, now)
        return answer_hello(ctx, known, known.session_no + 1, opened=False)
    number = request.session_no

    def opened(factory: FactoryDoc) -> FactoryDoc | None:
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
                "capabilities": within(request.capabilities, factory.enrolled_capabilities),
                "engines": tuple(sorted(set(request.engines))),
                "workspaces": request.workspaces,
                "seat_limit": request.seat_limit,
                "seats_used": 0,
                "transport": request.transport,
                "draining": False,
                "unfit": None,
                "version": request.version,
                "os": request.os,
                "free_disk_bytes": request.free_disk_bytes,
                "last_heartbeat_at": now,
            }
        )

    factory = await change_factory(ctx, request.factory_id, opened)
    ctx.roster.note(factory, heard=True)
    await end_lower_sessions(ctx, factory, now)
    ctx.ready.wake()
    ctx.capacity.announce()
    beyond = sorted(set(request.capabilities) - set(factory.enrolled_capabilities))
    warnings = (f"not enrolled for, and left out: {', '.join(beyond)}",) if beyond else ()
    return answer_hello(ctx, factory, factory.session_no, opened=True, warnings=warnings)


def answer_hello(
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


def check_replaceable(ctx: Context, factory: FactoryDoc, takeover: bool, now: datetime) -> None:
    """Decided by what this coordinator heard and by the store, which may be older."""
    if takeover or factory.session_no == REST_SESSION_NO:
        return
    entry = ctx.roster.get(factory.id)
    heard_s = ctx.clock.boot_s() - entry.heard_at_s if entry and entry.heard_at_s is not None else None
    stored_s = (now - factory.last_heartbeat_at).total_seconds() if factory.last_heartbeat_at else None
    alive = heard_s is not None and heard_s <= ctx.timers.alive_within_s
    if alive or (stored_s is not None and stored_s <= ctx.timers.alive_within_s + ctx.timers.roster_store_s):
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
