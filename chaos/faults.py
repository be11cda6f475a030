"""What each fault of a plan does to a simulated fleet, and how it is mended again."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from functools import partial

from bus.memory import NO_FAULTS, BusFaults
from chaos.fleet import Fleet
from chaos.nodes import CoordinatorNode, FactoryNode
from chaos.plan import CALM_S, Fault
from chaos.processes import Process
from chaos.recording import Message
from chaos.wires import ProcessBus, SimRestLink
from factory.link.port import Unanswered
from schemas.errors import FleetError

STRAY_OPS = frozenset({"hello", "claim", "start", "checkpoint", "report", "release", "renew"})
STRAYS_FROM_LAST = 60
LAST_S = CALM_S - 1.0
Mend = Callable[[], None]


class NotNow(Exception):
    """There is nothing that this fault could hit at the moment."""


def begin(world: Fleet, fault: Fault) -> None:
    """Begins it and sets its end, which is before the calm. A fault that has no end is noted as once."""
    try:
        mend = ENACTED[fault.name](world, fault)
    except NotNow:
        return
    world.faults[fault.name] += 1
    does = "once" if mend is None else "begins"
    world.note("fault", "world", name=fault.name, does=does, on=fault.on, **fault.how)
    if mend is None:
        return
    to_mend = mend

    def end() -> None:
        to_mend()
        world.note("fault", "world", name=fault.name, does="ends", on=fault.on)

    world.later(_within(fault.for_s), end)


def _within(wanted_s: float) -> float:
    return max(0.0, min(wanted_s, LAST_S - asyncio.get_running_loop().time()))


def _coordinator(world: Fleet, name: str) -> CoordinatorNode:
    node = next(one for one in world.coordinators if one.name == name)
    if node.process.dead:
        raise NotNow
    return node


def _factory(world: Fleet, name: str) -> FactoryNode:
    node = world.factories[name.removeprefix("factory:")]
    if node.life is None:
        raise NotNow
    return node


def _process(world: Fleet, name: str) -> Process:
    if name.startswith("coordinator:"):
        return _coordinator(world, name).process
    life = _factory(world, name).life
    assert life is not None
    return life.process


def _bus(world: Fleet, name: str) -> ProcessBus:
    if name.startswith("coordinator:"):
        bus = _coordinator(world, name).bus
    else:
        life = _factory(world, name).life
        bus = life.bus if life is not None else None
    if bus is None or bus.cut_off:
        raise NotNow
    return bus


def bus_weather(world: Fleet, fault: Fault) -> Mend:
    how = fault.how
    world.broker.faults = BusFaults(how["loss"], how["duplicate"], (0.0, how["delay_s"]))

    def mend() -> None:
        world.broker.faults = NO_FAULTS

    return mend


def bus_outage(world: Fleet, fault: Fault) -> Mend:
    if not world.broker.running:
        raise NotNow
    world.broker.stop()
    return world.broker.start


def stream_deleted(world: Fleet, fault: Fault) -> None:
    world.broker.delete_stream()


def rest_weather(world: Fleet, fault: Fault) -> Mend:
    world.rest.loss, world.rest.delay_s = fault.how["loss"], fault.how["delay_s"]

    def mend() -> None:
        world.rest.loss = world.rest.delay_s = 0.0

    return mend


def store_weather(world: Fleet, fault: Fault) -> Mend:
    weather = _coordinator(world, fault.on).weather
    weather.share = fault.how

    def mend() -> None:
        weather.share = {}

    return mend


def late_projections(world: Fleet, fault: Fault) -> Mend:
    weather = _coordinator(world, fault.on).weather
    weather.late_projections = 0.5

    def mend() -> None:
        weather.late_projections = 0.0

    return mend


def store_outage(world: Fleet, fault: Fault) -> Mend:
    weather = _coordinator(world, fault.on).weather
    weather.down = True

    def mend() -> None:
        weather.down = False

    return mend


def crash(world: Fleet, fault: Fault) -> None:
    if fault.on.startswith("coordinator:"):
        coordinator = _coordinator(world, fault.on)
        coordinator.kill()
        world.later(_within(fault.how["back_s"]), coordinator.start)
    else:
        factory = _factory(world, fault.on)
        factory.kill()
        world.later(_within(fault.how["back_s"]), factory.start)


def crash_at_write(world: Fleet, fault: Fault) -> None:
    """Between two writes that belong together, such as a commit and what is projected from it."""
    node = _coordinator(world, fault.on)
    assert node.line is not None

    def die() -> None:
        node.kill()
        world.later(_within(fault.how["back_s"]), node.start)

    node.line.doom = (int(fault.how["writes"]), bool(fault.how["after"]), die)


def pause(world: Fleet, fault: Fault) -> Mend:
    process = _process(world, fault.on)
    if process.stopped:
        raise NotNow
    life = getattr(world.factories.get(fault.on.removeprefix("factory:")), "life", None)
    number = life.life if life is not None else _coordinator(world, fault.on).lives
    process.stop()
    world.note("paused", fault.on, life=number)

    def mend() -> None:
        process.go_on()
        if not process.dead:
            world.note("resumed", fault.on, life=number)

    return mend


def clock_jump(world: Fleet, fault: Fault) -> None:
    _factory(world, fault.on).clock.skew_s += fault.how["by_s"]


def drain(world: Fleet, fault: Fault) -> None:
    factory = _factory(world, fault.on)
    assert factory.life is not None
    factory.life.drain()

    def back() -> None:
        if factory.life is not None:
            world.later(1.0, back)
        else:
            factory.start()

    world.later(_within(fault.how["back_s"]), back)


def twin(world: Fleet, fault: Fault) -> None:
    """A second machine with this factory's identity, that takes over; the first one's session is fenced."""
    first = _factory(world, fault.on)
    second = FactoryNode(world, first.plan, where=f"-twin-{len(world.twins)}")
    world.twins.append(second)
    second.start(takeover=True)

    def back() -> None:
        """The first machine's operator finds it down, ends the other, and starts it again."""
        second.kill()
        first.start(takeover=True)

    world.later(_within(30.0), back)


def bus_cut(world: Fleet, fault: Fault) -> Mend:
    bus = _bus(world, fault.on)
    bus.cut()
    return bus.heal


def rest_cut(world: Fleet, fault: Fault) -> Mend:
    if fault.on.startswith("coordinator:"):
        node = _coordinator(world, fault.on)
        node.cut_off = True

        def mend_node() -> None:
            node.cut_off = False

        return mend_node
    life = _factory(world, fault.on).life
    assert life is not None
    life.rest.cut_off = True

    def mend() -> None:
        life.rest.cut_off = False

    return mend


def cut_off(world: Fleet, fault: Fault) -> Mend:
    """A partition: this process reaches nobody, over neither way."""
    mend_rest = rest_cut(world, fault)
    mend_bus: Mend | None = None
    with contextlib.suppress(NotNow):
        mend_bus = bus_cut(world, fault)

    def mend() -> None:
        mend_rest()
        if mend_bus is not None:
            mend_bus()

    return mend


def stray(world: Fleet, fault: Fault) -> None:
    """Messages of factories come once more, long after; and what holders say, wrong in a word."""
    chance = random.Random(f"{world.plan.seed} {fault.at_s}")
    link = SimRestLink(world.rest, Process("stray"), "stray", world.ask_recorder)
    said = [record.data for record in world.history.of("asked") if record.data["op"] in STRAY_OPS]
    said = [data for data in said if data["message"].get("sessionId")][-STRAYS_FROM_LAST:]
    begun = [data["message"] for data in said if data["op"] in ("start", "checkpoint", "renew")]
    if not said:
        raise NotNow
    for _ in range(int(fault.how["messages"])):
        if begun and chance.random() < 0.5:
            asked = chance.choice(("release", "renew", "start")), _wrong_end(chance.choice(begun), chance)
        else:
            data = chance.choice(said)
            asked = data["op"], dict(data["message"])
        world.later(chance.uniform(0, 10), partial(_say, world, link, *asked))


def _wrong_end(message: Message, chance: random.Random) -> Message:
    """Of a term that may be running, by the right factory; but of another session, or of another term."""
    names = ("productId", "jobId", "leaseEpoch", "factoryId", "sessionId")
    end = {name: message[name] for name in names}
    if end["leaseEpoch"] > 1 and chance.random() < 0.7:
        return end | {"leaseEpoch": end["leaseEpoch"] - 1}
    return end | {"sessionId": "some-other-session"}


def _say(world: Fleet, link: SimRestLink, op: str, message: Message) -> None:
    async def once() -> None:
        with contextlib.suppress(FleetError, Unanswered):
            await link.call(op, message | {"waitS": 0.0} if op == "claim" else message)

    world.operator.process.spawn(once())


def git_trouble(world: Fleet, fault: Fault) -> Mend:
    machine = _factory(world, fault.on).machine
    machine.git_trouble = True

    def mend() -> None:
        machine.git_trouble = False

    return mend


def machine_broken(world: Fleet, fault: Fault) -> Mend:
    machine = _factory(world, fault.on).machine
    machine.broken = True

    def mend() -> None:
        machine.broken = False

    return mend


def server_refuses(world: Fleet, _fault: Fault) -> Mend:
    world.remote.refuses = True

    def mend() -> None:
        world.remote.refuses = False

    return mend


ENACTED: dict[str, Callable[[Fleet, Fault], Mend | None]] = {
    "bus-weather": bus_weather,
    "bus-outage": bus_outage,
    "bus-cut": bus_cut,
    "stream-deleted": stream_deleted,
    "rest-weather": rest_weather,
    "rest-cut": rest_cut,
    "cut-off": cut_off,
    "store-weather": store_weather,
    "store-outage": store_outage,
    "late-projections": late_projections,
    "crash": crash,
    "crash-at-write": crash_at_write,
    "pause": pause,
    "clock-jump": clock_jump,
    "drain": drain,
    "twin": twin,
    "git-trouble": git_trouble,
    "machine-broken": machine_broken,
    "server-refuses": server_refuses,
    "stray": stray,
}
