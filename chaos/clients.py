"""Those who ask from outside: operators who insist until they are answered, and factories in sh that know only REST."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

from chaos.machines import DriftingClock
from chaos.plan import TTL_S, Act, FactoryPlan, JobPlan
from chaos.processes import Process
from chaos.surroundings import Surroundings
from chaos.wires import Message, SimRestLink
from coordinator.context import Context
from coordinator.handlers import actions, budgets, factories, intake
from factory.link.port import Unanswered
from schemas.errors import FleetError
from schemas.factory import FactoryDoc
from schemas.ids import JobKey, job_id_for
from schemas.manifest import parse_manifest

AGAIN_S = 1.0
RENEW_S = 7.0
WAIT_S = 5.0
MARGIN_S = TTL_S / 10


class Operator:
    """Repeats what was not answered, under the same key, perhaps to another coordinator."""

    def __init__(self, world: Surroundings) -> None:
        self.process = Process("operator:ann")
        self.link = SimRestLink(world.rest, self.process, "operator:ann", world.scribe)
        self.acknowledged: dict[str, JobKey] = {}
        self._world = world
        self._acts = 0

    async def _insists(self, op: str, message: Message, act: Any) -> Message:
        while True:
            try:
                return await self._world.scribe.noted("operator:ann", op, "rest", message, lambda: self.link.ask(act))
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
            await factories.enroll(ctx, doc)
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


class RestClient:
    """A factory as a shell script would be: claims, starts, renews, reports, each asked again until answered."""

    def __init__(self, world: Surroundings, plan: FactoryPlan) -> None:
        self.plan = plan
        self.clock = DriftingClock(plan.skew_s, plan.drift)
        self.process = Process(f"factory:{plan.id}")
        self.up = True
        self.closed = False
        self._world = world
        self._chance = random.Random(f"{world.plan.seed} {plan.id}")
        self.link = SimRestLink(world.rest, self.process, f"factory:{plan.id}", world.scribe)
        world.lives_of_factories += 1
        self._life = world.lives_of_factories
        world.note(
            "up", f"factory:{plan.id}", life=self._life, seats=1, engines=["shell"],
            capabilities=list(plan.capabilities), sessionId=None,
        )  # fmt: skip
        self.process.spawn(self._live())

    async def _live(self) -> None:
        number = 0
        while True:
            number += 1
            ask = {
                "factoryId": self.plan.id,
                "requestId": f"{self.plan.id}-{number}",
                "waitS": WAIT_S,
                "engines": ["shell"],
                "capabilities": list(self.plan.capabilities),
            }
            with contextlib.suppress(FleetError):
                answer, asked_s = await self._insists("claim", ask)
                for duplicate in answer["grants"][1:]:
                    await self._insists("release", self._term(duplicate))
                for grant in answer["grants"][:1]:
                    await self._holds(grant, asked_s)
            await asyncio.sleep(self._chance.uniform(0.05, 0.5))

    def _term(self, grant: Message) -> Message:
        return {name: grant[name] for name in ("productId", "jobId", "leaseEpoch")} | {"factoryId": self.plan.id}

    async def _insists(self, op: str, message: Message) -> tuple[Message, float]:
        """The answer, and when the attempt that was answered began."""
        while True:
            asked_s = self.clock.boot_s()
            try:
                return await self.link.call(op, message), asked_s
            except Unanswered:
                await asyncio.sleep(AGAIN_S)

    async def _holds(self, grant: Message, asked_s: float) -> None:
        """A 409 on the way means: stop now. Trust is kept as any holder must: from the ask, less the margin."""
        term = self._term(grant)
        times = grant["term"]
        until_s = asked_s + min(times["leaseLeftS"], times["startWithinS"]) - MARGIN_S
        try:
            async with asyncio.timeout(until_s - self.clock.boot_s()):
                answer, asked_s = await self._insists("start", dict(term))
        except (FleetError, TimeoutError):
            return
        stopped = await self._works(grant, term, asked_s + answer["term"]["leaseLeftS"] - MARGIN_S)
        if stopped is None:
            return
        with contextlib.suppress(FleetError):
            if stopped:
                await self._insists("release", dict(term))
            else:
                verify = [{"command": one, "rc": 0} for one in grant.get("verify", ())]
                await self._insists("report", term | {"result": {"outcome": "ok", "verify": verify}})

    async def _works(self, grant: Message, term: Message, until_s: float) -> bool | None:
        """Whether it was told to stop; None where the term is not its own any more."""
        over_s = self.clock.boot_s() + self._chance.choice((0.5, 5.0, 15.0, 40.0))
        if self.clock.boot_s() >= until_s:
            return None
        self._engine("begins", grant)
        try:
            while (now_s := self.clock.boot_s()) < over_s:
                await asyncio.sleep(max(0.0, min(over_s, until_s, now_s + RENEW_S) - now_s))
                async with asyncio.timeout(until_s - self.clock.boot_s()):
                    answer, asked_s = await self._insists("renew", dict(term))
                until_s = max(until_s, asked_s + answer["term"]["leaseLeftS"] - MARGIN_S)
                if answer.get("stop"):
                    return True
            return False
        except (FleetError, TimeoutError):
            return None
        finally:
            self._engine("ends", grant)

    def _engine(self, does: str, grant: Message) -> None:
        self._world.note(
            "engine", f"factory:{self.plan.id}", does=does, life=self._life, sessionId="rest",
            productId=grant["productId"], jobId=grant["jobId"], leaseEpoch=grant["leaseEpoch"],
        )  # fmt: skip
