"""What is done to live fleets, by name. Every wait and every load is bounded."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable

from bus.port import BusError
from bus.subjects import EVENT_STREAM
from chaos.live.cosmos_server import HttpFault
from chaos.live.fleet import LiveFleet, Shape
from chaos.live.herd import claims_at_once
from chaos.live.processes import LiveMachine
from chaos.live.run import LiveRun, Scenario

OUTAGE_S = 5.0
STEADY_S = 12.0
RATE_S = 0.35  # between two jobs
PAGE_BYTES = 4096
ROOM_BYTES = 256 * 1024  # enough for logs and the history, and less than the database has


async def _with_flow(stage: LiveRun, trouble: Callable[[], Awaitable[None]]) -> None:
    """Jobs are handed in for as long as the trouble lasts."""
    flow = asyncio.create_task(stage.work.flows(10_000, RATE_S))
    try:
        await trouble()
    finally:
        flow.cancel()
        await asyncio.gather(flow, return_exceptions=True)


async def _steady(stage: LiveRun) -> None:
    """No fault at all: what a started job costs."""
    stage.say(f"steady work for {STEADY_S:.0f} s")
    stage.fleet.note("phase", "world", name="steady", does="begins")
    await stage.work.flows(int(STEADY_S / RATE_S), RATE_S)
    stage.fleet.note("phase", "world", name="steady", does="ends")


async def _holders(stage: LiveRun, count: int, seconds: float) -> list[LiveMachine]:
    """So many factories, each at a job that takes so long. Of a factory's two seats both may be at one."""
    jobs = {await stage.work.hands_in(stage.work.long(seconds)) for _ in range(2 * count)}
    for _ in range(50):
        holders = stage.fleet.holders(jobs)
        if len(holders) >= count:
            break
        await asyncio.sleep(0.1)
    return _some(stage.fleet, holders, count)


def _some(fleet: LiveFleet, machines: list[LiveMachine], count: int) -> list[LiveMachine]:
    return fleet.chance.sample(machines, min(count, len(machines)))


# -- broker-outage --


async def broker_outage(stage: LiveRun) -> None:
    await _steady(stage)
    await _with_flow(stage, lambda: _broker_goes(stage))


async def _broker_goes(stage: LiveRun) -> None:
    fleet = stage.fleet
    for number in range(1, 5):
        holders = await _holders(stage, 1, 4.0)
        stage.say(f"the broker is killed ({number} of 4)")
        async with fleet.fault("bus-outage", "bus", signal="SIGKILL"):
            fleet.broker.kill()
            await asyncio.sleep(1.0)
            for victim in holders:
                stage.say(f"{victim.id}, which holds a job, is killed meanwhile")
                victim.kill()
            await asyncio.sleep(OUTAGE_S - 1.0)
            fleet.broker.start()
        await fleet.until_joined()
        for machine in fleet.machines.values():
            if not machine.up:
                machine.start(takeover=True)
        await fleet.until_joined()
        await asyncio.sleep(1.5)
    stage.say("the broker is frozen")
    async with fleet.fault("bus-outage", "bus", signal="SIGSTOP"):
        os.kill(fleet.broker.pid, signal.SIGSTOP)
        await asyncio.sleep(OUTAGE_S)
        os.kill(fleet.broker.pid, signal.SIGCONT)
    await fleet.until_joined()
    stage.say("the event stream is deleted")
    fleet.once("stream-deleted", "bus")
    try:
        await fleet.ear.request(f"$JS.API.STREAM.DELETE.{EVENT_STREAM}", b"", 2.0)
    except BusError as error:
        stage.say(f"it could not be: {error}")
    await asyncio.sleep(2.0)


# -- churn --


async def churn(stage: LiveRun) -> None:
    await _with_flow(stage, lambda: _comings_and_goings(stage))


async def _comings_and_goings(stage: LiveRun) -> None:
    """Each second one factory is killed and another one started; every fifth is drained instead."""
    fleet = stage.fleet
    seconds = 30
    stage.say(f"for {seconds} s, each second one factory is killed and another started")
    for second in range(seconds):
        waiting, held = [one for one in fleet.machines.values() if not one.up], fleet.holders()
        victim = fleet.chance.choice(held if held and fleet.chance.random() < 0.6 else fleet.running())
        if second % 5 == 4:
            victim.drain()
        else:
            victim.kill()
        if waiting:
            # A killed factory's session may still look alive: who starts it again says that it is the newer one.
            fleet.chance.choice(waiting).start(takeover=True)
        await asyncio.sleep(1.0)


# -- herd --


async def herd(stage: LiveRun) -> None:
    fleet = stage.fleet
    stage.say(f"{fleet.shape.herd} claims at once for one job")
    await claims_at_once(stage)
    fleet.start_hive()
    await fleet.until_joined()
    stage.say(f"{fleet.shape.hive} factories lose their broker, and all come back at once")
    await stage.work.flows(30, 0.1)
    for number in (1, 2):
        async with fleet.fault("bus-outage", "bus", signal="SIGKILL", round=number):
            fleet.broker.kill()
            await asyncio.sleep(3.0)
            fleet.broker.start()
        await fleet.until_joined()
        await stage.work.flows(30, 0.1)


# -- partition --


async def partition(stage: LiveRun) -> None:
    await _with_flow(stage, lambda: _links_break(stage))


async def _links_break(stage: LiveRun) -> None:
    fleet = stage.fleet
    stage.say("three factories lose the bus, two lose REST")
    unlucky = _some(fleet, fleet.running(), 5)
    await asyncio.gather(
        *(_cut(fleet, one, "bus-cut", OUTAGE_S) for one in unlucky[:3]),
        *(_cut(fleet, one, "rest-cut", OUTAGE_S) for one in unlucky[3:]),
    )
    stage.say("two connections to the bus stand and carry nothing")
    await asyncio.gather(
        *(_cut(fleet, one, "bus-cut", OUTAGE_S, half_open=True) for one in _some(fleet, fleet.running(), 2))
    )
    stage.say("two holders are cut off from everything for longer than their leases last")
    isolated = await _holders(stage, 2, 8.0)
    isolated_s = fleet.shape.lease_ttl_s + 8.0
    await asyncio.gather(
        *(_cut(fleet, one, "cut-off", isolated_s, half_open=number == 0) for number, one in enumerate(isolated))
    )
    stage.say("every link is slow")
    async with fleet.fault("bus-weather", "bus", delay_s=0.15), fleet.fault("rest-weather", "rest", delay_s=0.15):
        for link in fleet.links:
            link.delay_s = 0.15
        await asyncio.sleep(OUTAGE_S)
        for link in fleet.links:
            link.delay_s = 0.0
    first, second = fleet.nodes
    stage.say("one coordinator loses the bus, the other the store")
    assert first.bus_link is not None
    assert second.store_link is not None
    async with fleet.fault("bus-cut", first.who), fleet.fault("store-outage", second.who):
        await first.bus_link.cut()
        await second.store_link.cut()
        await asyncio.sleep(OUTAGE_S)
        await first.bus_link.mend()
        await second.store_link.mend()
    await asyncio.sleep(2.0)


async def _cut(fleet: LiveFleet, machine: LiveMachine, name: str, seconds: float, *, half_open: bool = False) -> None:
    assert machine.bus_link is not None
    assert machine.rest_link is not None
    links = {"bus-cut": [machine.bus_link], "rest-cut": [machine.rest_link]}
    async with fleet.fault(name, machine.who, half_open=half_open):
        for link in links.get(name, [machine.bus_link, machine.rest_link]):
            if half_open:
                link.half_open = True
            else:
                await link.cut()
        await asyncio.sleep(seconds)
        for link in (machine.bus_link, machine.rest_link):
            await link.mend()


# -- zombie --


async def zombie(stage: LiveRun) -> None:
    await _with_flow(stage, lambda: _holders_sleep(stage))


async def _holders_sleep(stage: LiveRun) -> None:
    fleet = stage.fleet
    victims = await _holders(stage, 4, 9.0)
    stage.say(f"{', '.join(one.id for one in victims)} are stopped, each holding a job")
    for victim in victims:
        victim.pause()
    await asyncio.sleep(1.0)
    twin = fleet.twin_of(victims[0])
    stage.say(f"a second machine with the identity of {twin.id} takes over")
    twin.start(takeover=True)
    await asyncio.sleep(fleet.shape.lease_ttl_s + 8.0)
    stage.say("the stopped ones wake up")
    for victim in victims:
        victim.resume()
    await asyncio.sleep(3.0)


# -- coordinator-crash --


async def coordinator_crash(stage: LiveRun) -> None:
    await _with_flow(stage, lambda: _coordinators_fall(stage))


async def _coordinators_fall(stage: LiveRun) -> None:
    fleet = stage.fleet
    for number in range(6):
        await asyncio.sleep(2.0)
        node = fleet.nodes[number % len(fleet.nodes)]
        stage.say(f"{node.id} is killed")
        node.kill()
        await asyncio.sleep(1.0 if len(fleet.nodes) > 1 else 0.0)
        await node.start()
    if len(fleet.nodes) > 1:
        stage.say("both are killed at once")
        for node in fleet.nodes:
            node.kill()
        await asyncio.gather(*(node.start() for node in fleet.nodes))
        await asyncio.sleep(2.0)
        node = fleet.nodes[0]
        stage.say(f"{node.id} is stopped for longer than a lease lasts")
        node.pause()
        await asyncio.sleep(fleet.shape.lease_ttl_s + 2.0)
        node.resume()
    await asyncio.sleep(2.0)


# -- store-faults --


async def store_faults(stage: LiveRun) -> None:
    trouble = _cosmos_trouble if stage.fleet.shape.store == "cosmos" else _disk_full
    await _with_flow(stage, lambda: trouble(stage))


async def _cosmos_trouble(stage: LiveRun) -> None:
    fleet = stage.fleet
    await asyncio.sleep(2.0)
    stage.say("for 15 s, one request in six is throttled, refused, dropped, applied and dropped, or never answered")
    documents, many = r"/docs", 10**9
    weather = [
        HttpFault(documents, "status", many, 429, {"x-ms-retry-after-ms": "50"}, chance=0.04),
        HttpFault(documents, "status", many, 503, chance=0.04),
        HttpFault(documents, "drop", many, chance=0.03),
        HttpFault(documents, "apply_then_drop", many, chance=0.04),
        HttpFault(documents, "hang", many, chance=0.01),
    ]
    async with fleet.fault("store-weather", "store"):
        await fleet.cosmos.fault(weather)
        await asyncio.sleep(15.0)
        await fleet.cosmos.fault([])
    await asyncio.sleep(2.0)
    stage.say("the store is frozen")
    async with fleet.fault("store-outage", "store", signal="SIGSTOP"):
        os.kill(fleet.cosmos.pid, signal.SIGSTOP)
        await asyncio.sleep(OUTAGE_S)
        os.kill(fleet.cosmos.pid, signal.SIGCONT)
    await asyncio.sleep(2.0)
    stage.say("every write is applied, and no answer comes")
    async with fleet.fault("store-weather", "store", writes="unheard"):
        await fleet.cosmos.fault([HttpFault(r"^(POST|PUT) .*/docs", "apply_then_drop", many, chance=0.5)])
        await asyncio.sleep(OUTAGE_S)
        await fleet.cosmos.fault([])
    await asyncio.sleep(2.0)


async def _disk_full(stage: LiveRun) -> None:
    fleet = stage.fleet
    (node,) = fleet.nodes
    database = fleet.folder / "store" / "fleet.db"
    await asyncio.sleep(3.0)
    stage.say("the database has no page left (max_page_count)")
    node.kill()
    node.max_pages = database.stat().st_size // PAGE_BYTES + 8
    await node.start()
    async with fleet.fault("store-outage", "store", full="max_page_count"):
        await asyncio.sleep(2 * OUTAGE_S)
    node.kill()
    node.max_pages = None
    await node.start()
    await asyncio.sleep(3.0)
    if sys.platform == "linux":
        await _files_cannot_grow(stage)
    await asyncio.sleep(2.0)


async def _files_cannot_grow(stage: LiveRun) -> None:
    """Of the running coordinator. Where a write of the database fails, it ends, as it should: then it starts anew."""
    import resource

    fleet = stage.fleet
    (node,) = fleet.nodes
    stage.say("files cannot grow any more (RLIMIT_FSIZE)")
    async with fleet.fault("store-outage", "store", full="RLIMIT_FSIZE"):
        _, hard = resource.prlimit(node.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (ROOM_BYTES, hard))
        await asyncio.sleep(OUTAGE_S)
        node.look()
        if node.up:
            resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (hard, hard))
        else:
            stage.say("the coordinator has ended, since it did not know any more what the disk holds")
            await node.start()


SQLITE = Shape(store="sqlite", coordinators=1)

SCENARIOS = (
    Scenario("broker-outage", "the broker dies, freezes, and loses its stream", Shape(), broker_outage),
    Scenario("churn", "factories die and come, one each second", Shape(standby=6), churn),
    Scenario(
        "herd",
        "a thousand claims for one job; hundreds of factories lose their broker",
        Shape(factories=2, clients=0, hive=300, herd=1000, lease_ttl_s=60.0),
        herd,
    ),
    Scenario("partition", "links are cut, slow and half open", Shape(links=True), partition),
    Scenario("zombie", "holders are stopped, superseded, and wake up", Shape(), zombie),
    Scenario("coordinator-crash", "coordinators die and sleep", Shape(), coordinator_crash),
    Scenario("coordinator-crash", "the one coordinator dies, again and again", SQLITE, coordinator_crash),
    Scenario("store-faults", "the store throttles, lies and freezes", Shape(), store_faults),
    Scenario("store-faults", "the disk is full", SQLITE, store_faults),
)
