"""What operators do to a job. Each may be repeated with its Idempotency-Key and takes effect once."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from coordinator.context import Context
from coordinator.domain.ops import Op, Operate, RequestStop, Review
from coordinator.domain.table import Action
from coordinator.handlers.answers import check_applied
from coordinator.transact import Applied
from schemas.errors import ErrorCode, FleetError
from schemas.ids import JobKey, action_op
from schemas.messages import Control
from schemas.work import Checkpoint

OPERATOR_ACTIONS = ("ship", "requeue", "reject", "cancel", "preempt")
ReviewVerdict = Literal["approve", "request_changes", "reject"]


async def act(
    ctx: Context,
    key: JobKey,
    action: str,
    actor: str,
    idempotency_key: str,
    *,
    reason: str | None = None,
    checkpoint: Checkpoint | None = None,
    lease_epoch: int | None = None,
) -> Applied:
    """Raises invalid_request for an unknown action, and what the transition is refused with."""
    if action not in OPERATOR_ACTIONS:
        raise FleetError(
            ErrorCode.INVALID_REQUEST,
            f"found action '{action}'; allowed are {', '.join(OPERATOR_ACTIONS)}",
            found=action,
        )
    op_id = action_op(action, actor, idempotency_key)
    op: Op
    if action in ("cancel", "preempt"):
        if action == "preempt" and lease_epoch is None:
            raise FleetError(ErrorCode.INVALID_REQUEST, "preempt names the leaseEpoch of the term that it ends")
        op = RequestStop(
            id=op_id,
            actor=actor,
            action=Action(action),
            kind="cancel" if action == "cancel" else "preempt",
            deadline=ctx.clock.now() + timedelta(seconds=ctx.timers.stop_deadline_s),
            lease_epoch=lease_epoch,
            reason=reason,
        )
    else:
        op = Operate(id=op_id, actor=actor, action=Action(action), reason=reason, checkpoint=checkpoint)
    applied = check_applied(await ctx.transactor.transact(key, op))
    tell_holder(ctx, applied)
    return applied


def tell_holder(ctx: Context, applied: Applied) -> None:
    """An order on the bus; if it is lost, the next heartbeat or renewal answer repeats it."""
    job = applied.job
    if job.holder is None or job.stop is None:
        return
    ctx.publisher.send_control(
        job.holder.factory_id,
        Control(
            order=job.stop.kind,
            product_id=job.product_id,
            job_id=job.id,
            lease_epoch=job.lease_epoch,
            by_s=max(0.0, (job.stop.deadline - ctx.clock.now()).total_seconds()),
            reason=job.stop.reason,
        ),
    )


async def review(
    ctx: Context, key: JobKey, verdict: ReviewVerdict, actor: str, idempotency_key: str, reason: str | None = None
) -> Applied:
    op = Review(
        id=action_op(verdict, actor, idempotency_key),
        actor=actor,
        action=Action(verdict),
        verdict=verdict,
        reason=reason,
    )
    return check_applied(await ctx.transactor.transact(key, op))
