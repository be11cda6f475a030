"""A factory's session: old business first, then hello, then work, and silence once it is fenced."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from bus.memory import BusFaults
from bus.subjects import ANY, offer_subject
from coordinator.scheduler.explain import explain
from factory.opening import FencedSession
from factory.ports import Vitals
from schemas.factory import Transport
from schemas.job import Stage
from schemas.messages import Grant, Offer
from schemas.outcome import Outcome, Result
from schemas.work import Engine
from tests.support.fleet import PRODUCT, job_now, submitted
from tests.support.fleet_world import FactoryLife, FleetWorld, fleet_world
from tests.support.virtual import in_virtual_time
from tests.support.waiting import eventually
from tests.unit.factory.test_held_terms import at_work, ends, stage_is


@in_virtual_time
async def test_a_new_session_says_the_old_ones_report_as_the_old_one_and_hello_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        job, old, term = await at_work(world)
        for way in (old.over_bus, old.over_rest):
            way.gone = {"report"}
        term.finish()
        await eventually(lambda: old.outbox.pending())
        await old.died()
        new = await world.factory("f1")
        for way in (new.over_bus, new.over_rest):
            way.gone = {"report"}
        await asyncio.sleep(10)
        assert set(new.over_bus.ops() + new.over_rest.ops()) == {"report"}, "no hello before the report is heard"
        for way in (new.over_bus, new.over_rest):
            way.heal()
        await new.opened()
        reports = [message for op, message in new.asked if op == "report"]
        assert {message["sessionId"] for message in reports} == {old.session.session_id}
        assert all(message.get("next") is None for message in reports)
        assert await ends(world, job) == [("reported", 1)]
        assert (await job_now(world.ctx, job)).stage is Stage.REVIEW
        assert (old.work.opened.number, new.work.opened.number) == (1, 2)
        assert not new.outbox.pending()


@in_virtual_time
async def test_the_terms_of_a_session_that_died_are_ended_by_the_hello_of_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        job, old, _ = await at_work(world)
        await old.died()
        await world.factory("f1")
        second = await world.term(2)
        assert second.grant.lease_epoch == 2
        assert await ends(world, job) == [("reaped", 1)]


@in_virtual_time
async def test_a_fenced_session_ends_kills_its_engine_and_says_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        job, old, term = await at_work(world)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "session-number").write_text("7\n")
        new = await (await world.factory("f1", data="elsewhere")).opened()
        with pytest.raises(FencedSession):
            await old.task
        assert not term.running
        said = len(old.asked)
        assert "hello" not in [op for op, _ in old.asked[2:]], "it asked for its number, said hello, and never again"
        await asyncio.sleep(120)
        assert len(old.asked) == said
        assert not old.outbox.pending(), "a fenced term has nothing to report"
        assert new.work.opened.number == 8
        assert await ends(world, job) == [("reaped", 1)]


@in_virtual_time
async def test_a_machine_whose_counter_has_fallen_behind_anothers_takes_over_when_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        await (await (await world.factory("f1")).opened()).died()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "session-number").write_text("7\n")
        other = await (await world.factory("f1", data="elsewhere")).opened()
        with pytest.raises(FencedSession):
            await (await world.factory("f1")).task
        back = await (await world.factory("f1", takeover=True)).opened()
        assert (other.work.opened.number, back.work.opened.number) == (8, 9)
        with pytest.raises(FencedSession):
            await other.task


@in_virtual_time
async def test_a_lost_counter_is_asked_for_and_noted_before_hello_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await (await world.factory("f1")).opened()
        first, second = [message for op, message in life.asked if op == "hello"]
        assert first.get("sessionNo") is None
        assert second["sessionNo"] == 1
        assert life.identity.last_session_no() == 1


@in_virtual_time
async def test_a_draining_factory_claims_nothing_new_and_its_heartbeat_is_the_last_that_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        job, life, term = await at_work(world)
        life.life.drain()
        other = await submitted(world.ctx, "two")
        await asyncio.sleep(10)
        assert term.running, "it may finish within the grace"
        term.finish()
        await life.task
        assert (await job_now(world.ctx, other)).attempt == 0
        assert await ends(world, job) == [("reported", 1)]
        op, message = life.over_bus.asked[-1]
        assert (op, message["draining"], message["holding"]) == ("heartbeat", True, [])
        assert all(message.get("next") is None for op, message in life.asked if op == "report")


@in_virtual_time
async def test_what_outlasts_the_grace_is_released_and_the_factory_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        job, life, term = await at_work(world)
        life.life.drain()
        await life.task
        assert not term.running
        assert await ends(world, job) == [("released", 1)]
        assert (await job_now(world.ctx, job)).stage is Stage.QUEUED


@in_virtual_time
async def test_a_grant_that_arrives_while_it_drains_is_released_at_once_without_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await (await world.factory("f1")).opened()
        await asyncio.sleep(1)
        life.over_bus.late_s = {"claim": 3.0}
        job = await submitted(world.ctx)
        await eventually(lambda: life.work.asks.pending)
        life.life.drain()
        await life.task
        assert [term.began_s for term in world.terms] == [None]
        assert await ends(world, job) == [("released", 1)]


async def polling(world: FleetWorld) -> FactoryLife:
    """Idle, without a bus, and waiting for work over REST."""
    world.broker.stop()
    life = await (await world.factory("f1")).opened()
    await eventually(lambda: "claim" in life.over_rest.ops())
    await asyncio.sleep(1)
    return life


def claims(life: FactoryLife) -> list[tuple[str, float]]:
    """requestId and waitS of each, in order."""
    return [(message["requestId"], message.get("waitS") or 0.0) for op, message in life.asked if op == "claim"]


@in_virtual_time
async def test_a_drain_does_not_wait_for_the_work_that_an_idle_factory_was_waiting_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await polling(world)
        life.over_rest.late_s = {"heartbeat": 2.0}
        life.life.drain()
        await asyncio.sleep(1)
        assert len(claims(life)) == 1, "nobody is known to have heard that it drains"
        life.over_rest.heal()
        await asyncio.wait_for(life.task, 2.0)
        (first, waited_s), (second, then_s) = claims(life)
        assert (first, waited_s, then_s) == (second, 20.0, 0.0)
        said = [op for op, _ in life.over_rest.asked[-3:]]
        assert said == ["heartbeat", "claim", "heartbeat"], "that it drains is heard before it asks again"
        assert life.over_rest.asked[-1][1]["pending"] == []


@in_virtual_time
async def test_a_grant_whose_answer_a_drain_did_not_wait_for_is_had_by_its_id_and_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await polling(world)
        life.over_rest.late_s = {"claim": 3600.0}
        job = await submitted(world.ctx)
        await stage_is(world, job, Stage.ASSIGNED)  # it is granted, and the answer is on its way
        life.over_rest.heal()  # for what comes after it
        life.life.drain()
        await asyncio.wait_for(life.task, 5.0)
        (first, _), (second, _) = claims(life)
        assert first == second
        assert await ends(world, job) == [("released", 1)]
        assert [term.began_s for term in world.terms] == [None]
        queued = await job_now(world.ctx, job)
        assert (queued.stage, queued.retries.used) == (Stage.QUEUED, 0)


@in_virtual_time
async def test_a_drain_with_nobody_to_hear_it_asks_for_a_lost_grant_for_a_while_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await polling(world)
        life.over_rest.cut()
        life.life.drain()
        await asyncio.wait_for(life.task, 20.0)
        assert len({request_id for request_id, _ in claims(life)}) == 1
        assert {wait_s for _, wait_s in claims(life)[1:]} == {0.0}


@in_virtual_time
async def test_a_factory_that_is_drained_before_anybody_answered_its_hello_just_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await world.factory("f1")
        for way in (life.over_bus, life.over_rest):
            way.cut()
        await asyncio.sleep(20)
        life.life.drain()
        await asyncio.wait_for(life.task, 1.0)
        assert {op for op, _ in life.asked} == {"hello"}


@in_virtual_time
async def test_what_breaks_the_heartbeat_ends_the_factory_instead_of_leaving_it_mute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        _, life, term = await at_work(world)

        def broken() -> Vitals:
            raise PermissionError("the disk is gone")

        monkeypatch.setattr("tests.support.fleet_world.vitals", broken)
        with pytest.raises(PermissionError):
            await life.task
        assert not term.running


@in_virtual_time
async def test_a_claim_that_the_bus_leaves_unanswered_is_asked_over_rest_under_the_same_id_and_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await (await world.factory("f1", seats=1)).opened()
        await asyncio.sleep(1)
        life.over_bus.mute = {"claim", "start", "report"}
        job = await submitted(world.ctx)
        term = await world.term()
        (over_bus,) = [message["requestId"] for op, message in life.over_bus.asked if message.get("jobId") == job.id
                       and op == "claim"]  # fmt: skip
        over_rest = [message["requestId"] for op, message in life.over_rest.asked if op == "claim"]
        assert over_rest == [over_bus]
        term.finish()
        await stage_is(world, job, Stage.REVIEW)
        assert len(world.terms) == 1
        assert (await job_now(world.ctx, job)).attempt == 1
        assert await ends(world, job) == [("reported", 1)]


@in_virtual_time
async def test_requests_that_are_lost_and_repeated_on_the_bus_take_effect_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        world.broker.faults = BusFaults(loss=0.2, duplicate=0.3, delay_s=(0.0, 0.4))
        jobs = [await submitted(world.ctx, f"job-{number}") for number in range(8)]
        for name in ("f1", "f2"):
            await world.factory(name, seats=2)

        async def all_done() -> bool:
            for term in world.terms:
                if term.running and term.result is None:
                    term.finish()
            return all([(await job_now(world.ctx, job)).stage is Stage.REVIEW for job in jobs])

        await eventually(all_done, within_s=600.0)
        for job in jobs:
            assert [kind for kind, _ in await ends(world, job)].count("reported") == 1
        holders = [(term.grant.job_id, term.grant.lease_epoch) for term in world.terms]
        assert len(holders) == len(set(holders))


@in_virtual_time
async def test_without_the_bus_work_goes_on_over_rest_and_with_it_back_over_the_bus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        job, life, term = await at_work(world)
        world.broker.stop()
        await eventually(lambda: life.link.transport is Transport.REST)
        term.finish()
        await stage_is(world, job, Stage.REVIEW)
        await submitted(world.ctx, "two")
        second = await world.term(2, within_s=2.0)
        world.broker.start()
        await eventually(lambda: life.link.transport is Transport.BUS)
        asked = len(life.over_bus.asked)
        await eventually(lambda: "heartbeat" in life.over_bus.ops()[asked:], within_s=1.0)
        assert second.running
        second.finish()
        third = await submitted(world.ctx, "three")
        await stage_is(world, third, Stage.BUILDING)


def offer(world: FleetWorld, job_id: str = "nothing", **fields: Any) -> bytes:
    now = world.ctx.clock.now()
    known: dict[str, Any] = {
        "product_id": PRODUCT,
        "job_id": job_id,
        "lease_epoch": 1,
        "offer_no": 1,
        "round": 1,
        "invited": ("f1",),
        "engine": Engine.SHELL,
        "priority": "normal",
        "expires_at": now + timedelta(seconds=5),
        "now": now,
    }
    return orjson.dumps(Offer(**{**known, **fields}).to_doc())


async def claims_after(world: FleetWorld, life: FactoryLife, data: bytes) -> int:
    before = len([op for op, _ in life.asked if op == "claim"])
    await world.bus.publish(offer_subject(PRODUCT, ANY), data)
    await asyncio.sleep(1)
    return len([op for op, _ in life.asked if op == "claim"]) - before


@in_virtual_time
async def test_an_offer_that_is_fresh_fits_and_is_meant_for_it_is_claimed_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await (await world.factory("f1", capabilities=("gpu",))).opened()
        await asyncio.sleep(1)
        expired = world.ctx.clock.now()
        assert await claims_after(world, life, offer(world)) == 1
        assert await claims_after(world, life, offer(world, invited=(), round=2)) == 1
        assert await claims_after(world, life, offer(world, capabilities=("gpu",))) == 1
        assert await claims_after(world, life, offer(world, invited=("f2",))) == 0
        assert await claims_after(world, life, offer(world, engine=Engine.CLAUDE)) == 0
        assert await claims_after(world, life, offer(world, capabilities=("gpu", "xcode"))) == 0
        assert await claims_after(world, life, offer(world, expires_at=expired)) == 0
        assert await claims_after(world, life, b"no offer at all") == 0


@pytest.mark.parametrize("skew_s", [-3600.0, 3600.0])
@in_virtual_time
async def test_whether_an_offer_has_expired_is_told_by_the_coordinators_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_s: float
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        world.ctx.clock.skew_s = skew_s  # type: ignore[attr-defined]
        life = await (await world.factory("f1")).opened()
        await asyncio.sleep(1)
        now = world.ctx.clock.now()
        assert await claims_after(world, life, offer(world)) == 1
        assert await claims_after(world, life, offer(world, expires_at=now - timedelta(seconds=1))) == 0


@in_virtual_time
async def test_offers_heard_together_are_claimed_for_the_free_seats_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await (await world.factory("f1", seats=2)).opened()
        await asyncio.sleep(1)
        for way in (life.over_bus, life.over_rest):
            way.gone = {"claim"}
        before = len(life.asked)
        for number in range(5):
            await world.bus.publish(offer_subject(PRODUCT, ANY), offer(world, f"job-{number}"))
        await asyncio.sleep(0.5)
        claimed = {message["requestId"] for op, message in life.asked if op == "claim" and message.get("jobId")}
        assert len(life.asked) > before
        assert claimed == set(life.work.asks.pending)
        assert len(claimed) == 2
        assert life.claiming.seats_free == 0


@in_virtual_time
async def test_a_machine_that_fails_job_after_job_is_given_none_until_a_probe_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        broken, works = await world.factory("f1"), False
        await broken.opened()

        async def probe(_failed: Grant) -> None:
            if not works:
                raise OSError("still no disk")

        broken.work.fitness._probe = probe
        for number in range(1, 4):
            await submitted(world.ctx, f"k{number}")
            term = await world.term(number)
            term.result = Result(outcome=Outcome.MACHINE_FAILED, summary="no disk: [Errno 28] No space left on device")
            term.poke()
            await eventually(lambda: len(broken.work.held) == 0)
        await eventually(lambda: world.ctx.roster.get("f1").doc.unfit is not None)
        waiting = await submitted(world.ctx, "k4")
        await asyncio.sleep(60)
        assert len(world.terms) == 3, "it neither asks nor is it asked"
        told = explain(await job_now(world.ctx, waiting), world.ctx.snapshot())
        assert "f1 takes no work for now: 3 jobs in a row could not be run here: no disk" in str(told)
        works = True
        await eventually(lambda: len(world.terms) == 4, 600.0)
        assert world.ctx.roster.get("f1").doc.unfit is None
