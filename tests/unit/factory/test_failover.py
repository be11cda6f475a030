"""A bus that has come back is believed in only once somebody answers there; until then heartbeats ask soon again."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from factory.heartbeat import BEAT_UNSURE_S
from factory.link.failover import FailoverLink
from factory.link.port import Unanswered
from schemas.errors import ErrorCode, FleetError
from schemas.factory import Transport
from tests.support.fleet_world import FactoryLife, FleetWorld, fleet_world
from tests.support.virtual import in_virtual_time
from tests.support.waiting import eventually

HEARTBEAT_S = 5.0
HAIR_S = 0.01

Message = dict[str, Any]


class Link:
    """One way: what it was asked, and how it answers."""

    def __init__(self, name: str, *, connected: bool = True) -> None:
        self.name = name
        self.connected = connected
        self.asked: list[tuple[str, Message]] = []
        self.trouble: Exception | None = None

    async def call(self, op: str, message: Message) -> Message:
        self.asked.append((op, message))
        if self.trouble is not None:
            raise self.trouble
        return {"over": self.name}


class Ways:
    def __init__(self, *, connected: bool = True) -> None:
        self.bus, self.rest = Link("bus", connected=connected), Link("rest")
        self.link = FailoverLink(self.bus, self.rest)  # type: ignore[arg-type]
        self.told: list[Transport] = []
        self.link.on_change(self.told.append)

    def bus_is(self, connected: bool) -> None:
        self.bus.connected = connected
        self.link.bus_changed(connected)

    async def call(self, **message: Any) -> str:
        return str((await self.link.call("heartbeat", message))["over"])


async def test_the_bus_is_settled_once_somebody_answered_on_it() -> None:
    ways = Ways()
    assert not ways.link.settled
    assert await ways.call() == "bus"
    assert ways.link.settled
    assert ways.rest.asked == []


async def test_rest_is_settled_without_proof_and_the_bus_that_comes_needs_it_each_time() -> None:
    ways = Ways(connected=False)
    assert ways.link.settled
    for _ in range(2):
        ways.bus_is(True)
        assert not ways.link.settled
        assert await ways.call() == "bus"
        assert ways.link.settled
        ways.bus_is(False)
        assert ways.link.settled
        assert await ways.call() == "rest"
    assert ways.told == [Transport.BUS, Transport.REST] * 2


async def test_what_the_bus_leaves_unanswered_is_asked_over_rest_as_it_was_and_unsettles_the_bus() -> None:
    ways = Ways()
    await ways.call(n=1)
    ways.bus.trouble = Unanswered("nobody listens")
    assert await ways.call(n=2) == "rest"
    assert not ways.link.settled
    assert ways.rest.asked == [("heartbeat", {"n": 2})]
    ways.bus.trouble = None
    assert await ways.call(n=3) == "bus"
    assert ways.link.settled


async def test_a_refusal_on_the_bus_is_no_reason_to_ask_over_rest_or_to_doubt_the_bus() -> None:
    ways = Ways()
    await ways.call()
    ways.bus.trouble = FleetError(ErrorCode.CONFLICT, "somebody was faster")
    with pytest.raises(FleetError, match="faster"):
        await ways.call()
    assert ways.link.settled
    assert ways.rest.asked == []


async def test_a_call_that_is_held_open_goes_over_rest_and_proves_nothing_of_the_bus() -> None:
    ways = Ways()
    assert await ways.call(waitS=20) == "rest"
    assert not ways.link.settled
    assert ways.bus.asked == []


async def test_a_bus_that_says_again_what_it_is_changes_nothing() -> None:
    ways = Ways()
    await ways.call()
    ways.bus_is(True)
    assert ways.link.settled
    assert ways.told == []


class Beats:
    """When each heartbeat was sent."""

    def __init__(self, life: FactoryLife, patch: pytest.MonkeyPatch) -> None:
        self.at_s: list[float] = []
        asked = life.link.call

        async def noted(op: str, message: Message) -> Message:
            if op == "heartbeat":
                self.at_s.append(asyncio.get_running_loop().time())
            return await asked(op, message)

        patch.setattr(life.link, "call", noted)

    async def in_the_next(self, seconds: float) -> list[float]:
        """From now on."""
        self.at_s.clear()
        began_s = asyncio.get_running_loop().time()
        await asyncio.sleep(seconds)
        return [at_s - began_s for at_s in self.at_s]


def gaps(at_s: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(at_s)]


def exactly(*seconds: float) -> Any:
    return pytest.approx(list(seconds), abs=HAIR_S)


async def without_a_broker(world: FleetWorld) -> FactoryLife:
    life = await (await world.factory("f1")).opened()
    await eventually(lambda: life.link.settled)
    world.broker.stop()
    await eventually(lambda: life.link.transport is Transport.REST)
    await asyncio.sleep(1)
    return life


def assert_soon_again(between: list[float]) -> None:
    """The first gap is a blink, each next one twice as long, none longer than the period."""
    assert between[0] <= 2 * BEAT_UNSURE_S + HAIR_S
    assert between[1:] == exactly(*(min(2 * gap, HEARTBEAT_S) for gap in between[:-1]))
    assert between[-1] == pytest.approx(HEARTBEAT_S)


@in_virtual_time
async def test_on_a_bus_that_answers_and_over_rest_it_beats_at_the_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await (await world.factory("f1")).opened()
        beats = Beats(life, monkeypatch)
        assert gaps(await beats.in_the_next(31)) == exactly(*[HEARTBEAT_S] * 5)
        world.broker.stop()
        at_s = await beats.in_the_next(31)
        assert at_s[0] < HAIR_S, "that it went over to REST is told at once"
        assert gaps(at_s) == exactly(*[HEARTBEAT_S] * 6)


@in_virtual_time
async def test_while_nobody_answers_on_a_bus_that_came_back_it_beats_soon_again_and_then_less_and_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await without_a_broker(world)
        beats = Beats(life, monkeypatch)
        life.over_bus.cut()
        world.broker.start()
        assert_soon_again(gaps(await beats.in_the_next(30)))
        assert life.over_rest.ops().count("heartbeat") >= len(beats.at_s), "each is repeated over REST"


@in_virtual_time
async def test_from_the_first_answer_on_the_bus_it_beats_at_the_period_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await without_a_broker(world)
        beats = Beats(life, monkeypatch)
        life.over_bus.cut()
        world.broker.start()
        assert len(await beats.in_the_next(2)) >= 4
        life.over_bus.heal()
        first_s, *_ = at_s = await beats.in_the_next(31)
        assert first_s < 2.0
        assert gaps(at_s) == exactly(*[HEARTBEAT_S] * (len(at_s) - 1))
        assert life.link.settled


@in_virtual_time
async def test_a_factory_is_known_to_be_back_on_the_bus_within_a_second_of_its_coordinators_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await without_a_broker(world)
        life.over_bus.cut()
        world.broker.start()
        await asyncio.sleep(0.8)
        life.over_bus.heal()
        heard = len(life.over_bus.asked)
        await eventually(lambda: life.over_bus.ops()[heard:] == ["heartbeat"], within_s=1.0)
        entry = world.ctx.roster.get("f1")
        assert entry is not None
        assert entry.doc.transport is Transport.BUS


@in_virtual_time
async def test_each_return_of_the_bus_begins_with_a_blink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await without_a_broker(world)
        life.over_bus.cut()
        beats = Beats(life, monkeypatch)
        for _ in range(2):
            world.broker.start()
            assert_soon_again(gaps(await beats.in_the_next(30)))
            world.broker.stop()
            await eventually(lambda: life.link.transport is Transport.REST)
            await asyncio.sleep(2 * HEARTBEAT_S)


@in_virtual_time
async def test_a_bus_that_stops_answering_is_asked_soon_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        life = await (await world.factory("f1")).opened()
        await eventually(lambda: life.link.settled)
        beats = Beats(life, monkeypatch)
        life.over_bus.cut()
        assert_soon_again(gaps(await beats.in_the_next(40)))
