"""What a factory does with the terms that it holds: each is started once, dead in time, and told of until heard."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import orjson
import pytest

from coordinator.handlers import actions, claims
from schemas.ids import JobKey
from schemas.job import Job, Stage
from schemas.messages import ClaimAnswer, ClaimRequest
from schemas.outcome import Outcome
from tests.support.fleet import PRODUCT, events_of, job_now, submitted
from tests.support.fleet_world import FactoryLife, FleetWorld, ScriptedTerm, fleet_world
from tests.support.virtual import in_virtual_time
from tests.support.waiting import eventually

TTL_S = 60.0


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def ends(world: FleetWorld, job: Job) -> list[tuple[str, int]]:
    kinds = ("reported", "released", "reaped")
    return [(event.type, event.lease_epoch) for event in await events_of(world.ctx, job) if event.type in kinds]


async def at_work(world: FleetWorld, factory_id: str = "f1", **keys: object) -> tuple[Job, FactoryLife, ScriptedTerm]:
    """A job whose engine runs and whose start is acknowledged."""
    job = await submitted(world.ctx, **keys)
    life = await (await world.factory(factory_id)).opened()
    term = await world.term()
    await eventually(lambda: term.state.start_acknowledged)
    return job, life, term


async def stage_is(world: FleetWorld, job: Job, *stages: Stage, within_s: float = 10.0) -> None:
    async def so() -> bool:
        return (await job_now(world.ctx, job)).stage in stages

    await eventually(so, within_s)


@in_virtual_time
async def test_a_grant_heard_again_is_not_started_again_neither_beside_its_term_nor_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        job, life, term = await at_work(world)
        heard = ClaimAnswer(grants=(term.grant,))
        life.held.take(heard, now_s())
        term.finish()
        await stage_is(world, job, Stage.REVIEW)
        await eventually(lambda: len(life.held) == 0)
        life.held.take(heard, now_s())
        await asyncio.sleep(1)
        assert world.terms == [term]
        assert len(life.held) == 0


@in_virtual_time
async def test_of_two_jobs_that_two_tries_of_one_ask_won_only_the_first_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await (await world.factory("f1", seats=2)).opened()
        life.work.asks.close()
        await asyncio.sleep(21)  # its long-poll, if it had one, is over
        for key in ("first", "second"):
            await submitted(world.ctx, key)
        said = {"factory_id": "f1", "session_id": life.session.session_id, "session_no": life.work.opened.number}
        request = ClaimRequest(**said, ask_no=999, request_id="twice", max=2)
        won = await claims.claim(world.ctx, request)
        life.held.take(won, now_s(), seats=1)
        term = await world.term(1)
        assert term.grant == won.grants[0]
        other = JobKey(PRODUCT, won.grants[1].job_id)
        await stage_is(world, await job_now(world.ctx, other), Stage.QUEUED)
        assert world.terms == [term]
        again = await job_now(world.ctx, other)
        assert (again.retries.used, again.lost_in_a_row, again.result and again.result.summary) == (0, 0, "duplicate")


@in_virtual_time
async def test_an_engine_whose_start_nobody_acknowledged_is_dead_before_the_job_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        job = await submitted(world.ctx)
        life = await world.factory("f1")
        for way in (life.over_bus, life.over_rest):
            way.gone |= {"start", "release"}  # neither the start nor its end is heard; heartbeats are
        first = await world.term()
        await world.factory("f2")
        second = await world.term(2, within_s=60.0)
        assert first.ended_s is not None
        timers = world.ctx.timers
        assert first.ended_s <= (first.began_s or 0.0) + timers.grant_start_s - timers.trust_margin_s
        assert second.began_s is not None
        assert second.began_s >= timers.grant_start_s + timers.skew_s
        assert (first.tools.factory_id, second.tools.factory_id) == ("f1", "f2")
        assert (await job_now(world.ctx, job)).lease_epoch == 2


@in_virtual_time
async def test_a_start_that_was_made_but_whose_answer_is_lost_extends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        job = await submitted(world.ctx)
        life = await world.factory("f1")
        for way in (life.over_bus, life.over_rest):
            way.mute |= {"start"}
        term = await world.term()
        await eventually(lambda: not term.running, within_s=60.0)
        timers = world.ctx.timers
        assert (term.ended_s or 0.0) <= timers.grant_start_s - timers.trust_margin_s + 1.0
        await eventually(lambda: term.kept is not None)
        assert (await ends(world, job))[0] == ("released", 1)


@in_virtual_time
async def test_an_answer_that_renews_after_trust_ran_out_restarts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        _, life, term = await at_work(world)
        for way in (life.over_bus, life.over_rest):
            way.late_s = {"heartbeat": TTL_S, "release": 2 * TTL_S}  # all is heard; the answers come too late
        until_s = term.state.trust.until_s
        await eventually(lambda: not term.running, within_s=2 * TTL_S)
        assert until_s <= (term.ended_s or 0.0) <= until_s + 10.0
        await asyncio.sleep(TTL_S)
        assert not term.state.trust.holds(now_s())
        assert term.ended_s is not None
        assert sum(one.running for one in world.terms if one.grant == term.grant) == 0


@in_virtual_time
async def test_heartbeats_keep_an_engine_alive_far_beyond_its_first_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        job, _, term = await at_work(world)
        await asyncio.sleep(5 * TTL_S)
        assert term.running
        term.finish()
        await stage_is(world, job, Stage.REVIEW)
        assert await ends(world, job) == [("reported", 1)]


@pytest.mark.parametrize("order", ["heard", "lost"])
@in_virtual_time
async def test_a_told_holder_is_dead_by_the_stop_deadline_even_if_the_order_itself_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        job, _, term = await at_work(world)
        if order == "lost":
            world.broker.stop()
        told_s = now_s()
        await actions.act(world.ctx, job.key, "cancel", "operator:ann", "k1", lease_epoch=1)
        await eventually(lambda: not term.running, within_s=TTL_S)
        assert (term.ended_s or 0.0) <= told_s + world.ctx.timers.stop_deadline_s
        await stage_is(world, job, Stage.FAILED)
        assert await ends(world, job) == [("released", 1)]


@in_virtual_time
async def test_a_holder_that_can_hear_nobody_is_dead_before_its_successor_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        _, life, first = await at_work(world)
        await (await world.factory("f2")).opened()
        for way in (life.over_bus, life.over_rest):
            way.cut()
        second = await world.term(2, within_s=3 * TTL_S)
        assert first.ended_s is not None
        assert second.began_s is not None
        assert first.ended_s < second.began_s


@in_virtual_time
async def test_a_report_is_repeated_until_it_is_acknowledged_and_takes_effect_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        job, life, term = await at_work(world)
        for way in (life.over_bus, life.over_rest):
            way.mute = {"report"}
        term.finish()
        await stage_is(world, job, Stage.REVIEW)
        await asyncio.sleep(20)
        assert len(life.outbox.pending()) == 1
        for way in (life.over_bus, life.over_rest):
            way.heal()
        await eventually(lambda: not life.outbox.pending())
        assert await ends(world, job) == [("reported", 1)]
        assert sum(op == "report" for op, _ in life.asked) > 3
        assert term.kept is False


@in_virtual_time
async def test_a_report_brings_the_next_job_in_the_same_round_trip_and_the_ask_for_it_is_never_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        _, life, first = await at_work(world)
        await submitted(world.ctx, "two")
        asked = len(life.asked)
        for way in (life.over_bus, life.over_rest):
            way.late_s = {"report": 0.2}
        first.finish()
        await eventually(lambda: life.outbox.pending())
        (on_disk,) = (orjson.loads(one.path.read_bytes()) for one in life.outbox.pending())
        assert on_disk["message"].get("next") is None
        second = await world.term(2)
        assert second.grant.job_id != first.grant.job_id
        since = [op for op, _ in life.asked[asked:] if op != "heartbeat"]
        assert since[:2] == ["report", "start"], "nothing was claimed in between"


@in_virtual_time
async def test_a_grant_that_came_with_a_report_is_not_missing_while_its_answer_is_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        _, life, first = await at_work(world)
        job = await submitted(world.ctx, "two")
        for way in (life.over_bus, life.over_rest):
            way.late_s = {"report": 12.0}  # two heartbeats long
        first.finish()
        await stage_is(world, job, Stage.BUILDING, within_s=30.0)
        await asyncio.sleep(TTL_S)
        assert await ends(world, job) == []
        assert (await job_now(world.ctx, job)).lease_epoch == 1


@in_virtual_time
async def test_a_fenced_report_does_not_stop_the_next_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        job, life, first = await at_work(world)
        await submitted(world.ctx, "two")
        for way in (life.over_bus, life.over_rest):
            way.gone = {"heartbeat", "report"}
        first.finish()
        await stage_is(world, job, Stage.QUEUED, within_s=2 * TTL_S)  # by its lease
        for way in (life.over_bus, life.over_rest):
            way.heal()
        second = await world.term(2, within_s=30.0)
        assert "next" in next(message for op, message in life.asked if op == "report")
        assert second.running
        assert first.kept is True, "the tree of a superseded term is kept"
        assert [event for event in await ends(world, job) if event[1] == 1] == [("reaped", 1)]


@in_virtual_time
async def test_a_failed_engine_is_reported_with_its_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        job, _, term = await at_work(world)
        term.finish(Outcome.ENGINE_FAILED)
        await stage_is(world, job, Stage.FAILED)
        assert (await job_now(world.ctx, job)).retries.used == 1


@in_virtual_time
async def test_ended_terms_are_remembered_only_while_an_answer_that_grants_them_could_be_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await (await world.factory("f1")).opened()
        asked_s = now_s()
        for number in range(1, 21):
            job = await submitted(world.ctx, f"job-{number}")
            term = await world.term(number)
            term.finish()
            await stage_is(world, job, Stage.REVIEW)
        await eventually(lambda: len(life.held) == 0)
        everything = ClaimAnswer(grants=tuple(term.grant for term in world.terms))
        assert life.held.take(everything, asked_s, 20) == 20
        await asyncio.sleep(1)
        assert len(world.terms) == 20, "none of them is started again"
        assert len(life.held._ended) == 20
        await asyncio.sleep(TTL_S)
        life.held.take(ClaimAnswer(), now_s())
        assert not life.held._ended
        life.held.take(ClaimAnswer(grants=(world.terms[0].grant,)), asked_s)
        await eventually(lambda: len(world.terms) == 21 and world.terms[20].kept is not None)
        assert world.terms[20].began_s is None, "an answer as late as that is not trusted"
        assert [kind for kind, _ in await ends(world, await job_now(world.ctx, job))] == ["reported"]


@in_virtual_time
async def test_a_report_that_the_full_disk_does_not_take_is_said_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        job, life, term = await at_work(world)

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("factory.outbox.write_durably", full)
        term.finish()
        await stage_is(world, job, Stage.REVIEW)
        assert await ends(world, job) == [("reported", 1)]
        await eventually(lambda: term.kept is False)
        assert len(life.held) == 0
