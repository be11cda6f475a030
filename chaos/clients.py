"""The operator of a simulated fleet, who insists until there is an answer."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from chaos.environment import Environment
from chaos.plan import Act, FactoryPlan, JobPlan
from chaos.processes import Process
from chaos.recording import Message
from chaos.wires import SimRestLink
from coordinator.context import Context
from coordinator.handlers import actions, budgets, enrolment, intake
from factory.link.port import Unanswered
from schemas.errors import FleetError
from schemas.factory import FactoryDoc
from schemas.ids import JobKey, job_id_for
from schemas.manifest import parse_manifest

AGAIN_S = 1.0


class Operator:
    """Repeats what was not answered, under the same key, perhaps to another coordinator."""

    def __init__(self, world: Environment) -> None:
        self.process = Process("operator:ann")
        self.link = SimRestLink(world.rest, self.process, "operator:ann", world.ask_recorder)
        self.acknowledged: dict[str, JobKey] = {}
        self._world = world
        self._acts = 0

    async def _insists(self, op: str, message: Message, act: Any) -> Message:
        while True:
            try:
                return await self._world.ask_recorder.noted(
                    "operator:ann", op, "rest", message, lambda: self.link.ask(act)
                )
            except Unanswered:
                await asyncio.sleep(AGAIN_S)

    async def enrolls(self, plan: FactoryPlan) -> None:
        doc = FactoryDoc(
            id=plan.id,
            product_id=plan.products[0],
            products=plan.products,
            enrolled_capabilities=plan.capabilities,
            bus_key=plan.bus_key,
        )

        async def act(ctx: Context, _gone: Any) -> Message:
            await enrolment.enroll(ctx, doc)
            return {}

        await self._insists("enroll", {"factoryId": plan.id}, act)
        self._world.note(
            "enrolled", "world", factoryId=plan.id, products=list(plan.products), capabilities=list(plan.capabilities)
        )

    async def submits(self, plan: JobPlan) -> None:
        raw = plan.manifest()
        deps = _deps(plan)
        while any(one not in self.acknowledged for one in deps):  # noqa: ASYNC110 -- a person looks now and then
            await asyncio.sleep(AGAIN_S)

        async def act(ctx: Context, _gone: Any) -> Message:
            submitted = await intake.submit(ctx, intake.Submission(raw, plan.product_id, plan.key), "operator:ann")
            job = submitted.job
            return {"jobId": job.id, "stage": job.stage, "opId": job.idempotency_key, "repeated": submitted.repeated}

        message = {
            "productId": plan.product_id,
            "idempotencyKey": plan.key,
            "manifestSha256": parse_manifest(raw).sha256,
        }
        answer = await self._insists("submit", message, act)
        self.acknowledged[plan.key] = JobKey(plan.product_id, answer["jobId"])

    async def acts(self, act: Act) -> None:
        if act.action in ("pause", "resume"):
            return await self._pauses(act.product_id, paused=act.action == "pause")
        key = JobKey(act.product_id, job_id_for(act.product_id, act.key))
        idempotency_key = await self.does(act.action, key)
        if act.again_s is not None:
            await asyncio.sleep(act.again_s)
            await self.does(act.action, key, idempotency_key)

    async def does(self, action: str, key: JobKey, idempotency_key: str | None = None) -> str:
        """Ship, cancel, … or approve; gives the idempotency key that it was asked under. A refusal is an answer."""
        if idempotency_key is None:
            self._acts += 1
            idempotency_key = f"a{self._acts}"

        async def act(ctx: Context, _gone: Any) -> Message:
            if action == "approve":
                applied = await actions.review(ctx, key, "approve", "operator:ann", idempotency_key)
            else:
                epoch = await self._epoch_of(ctx, key) if action == "preempt" else None
                applied = await actions.act(ctx, key, action, "operator:ann", idempotency_key, lease_epoch=epoch)
            return {
                "jobId": key.job_id,
                "stage": applied.event.to_stage,
                "opId": applied.event.op_id,
                "repeated": applied.repeated,
            }

        message = {
            "productId": key.product_id,
            "jobId": key.job_id,
            "action": action,
            "idempotencyKey": idempotency_key,
        }
        with contextlib.suppress(FleetError):
            await self._insists("act", message, act)
        return idempotency_key

    async def _epoch_of(self, ctx: Context, key: JobKey) -> int:
        job = await self._world.job(key)
        return job["leaseEpoch"] if job else 1

    async def _pauses(self, product_id: str, *, paused: bool) -> None:
        async def act(ctx: Context, _gone: Any) -> Message:
            await budgets.set_paused(ctx, product_id, paused=paused)
            return {}

        await self._insists("pause", {"productId": product_id, "paused": paused}, act)


def _deps(plan: JobPlan) -> list[str]:
    text = str(plan.front.get("deps", "[]"))
    return [one.strip() for one in text.strip("[]").split(",") if one.strip()]
