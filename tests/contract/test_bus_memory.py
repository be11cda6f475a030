import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from bus.memory import NO_FAULTS, NOTICE_S, BusFaults, MemoryBroker, MemoryBus, matches
from bus.port import Bus, BusError, BusTimeout, BusUnavailable, Message
from bus.rights import factory_rights
from bus.subjects import event_subject, inbox_prefix
from runtime.entropy import Entropy
from runtime.virtual import run_virtual
from tests.contract.bus_contract import BusContract
from tests.support.bus_world import CAPABILITY, F1, LONG_S, PRODUCT, BusWorld, Heard, any_reply, echo
from tests.support.waiting import eventually


def broker(seed: int = 1, faults: BusFaults = NO_FAULTS) -> MemoryBroker:
    return MemoryBroker(Entropy(random.Random(seed)), faults)


class MemoryWorld(BusWorld):
    def __init__(self) -> None:
        super().__init__()
        self.broker = broker()

    def make_bus(self, factory_id: str | None) -> Bus:
        if factory_id is None:
            return MemoryBus(self.broker, name="coordinator")
        rights = factory_rights(factory_id, [PRODUCT], [CAPABILITY] if factory_id == F1 else [])
        prefix = inbox_prefix(factory_id)
        public = self.public_of(factory_id)
        return MemoryBus(self.broker, name=factory_id, inbox_prefix=prefix, rights=rights, public=public)

    def public_of(self, factory_id: str) -> str:
        return f"key-of-{factory_id}"

    def stop_broker(self) -> None:
        self.broker.stop()

    def start_broker(self) -> None:
        self.broker.start()


class TestMemoryBus(BusContract):
    @pytest.fixture
    async def world(self) -> AsyncIterator[BusWorld]:
        world = MemoryWorld()
        yield world
        await world.close()


async def started(of: MemoryBroker, name: str = "client") -> MemoryBus:
    bus = MemoryBus(of, name=name)
    await bus.start()
    return bus


async def heard_through(of: MemoryBroker, count: int, gap_s: float = 0.0) -> list[tuple[int, float]]:
    """What a listener hears, and when, of `count` messages, `gap_s` apart."""
    heard: list[tuple[int, float]] = []
    bus, loop = await started(of), asyncio.get_running_loop()
    await bus.subscribe("a", lambda message: heard.append((int(message.data), loop.time())))
    for number in range(count):
        await bus.publish("a", str(number).encode())
        await asyncio.sleep(gap_s)
    await asyncio.sleep(60)
    await bus.close()
    return heard


FAULTS = BusFaults(loss=0.2, duplicate=0.2, delay_s=(0.01, 0.5))


def test_one_seed_is_one_course_of_events() -> None:
    runs = [run_virtual(heard_through(broker(seed, FAULTS), 200, 0.05)) for seed in (7, 7, 8)]
    assert runs[0] == runs[1] != runs[2]


def test_faults_lose_repeat_delay_and_reorder() -> None:
    heard = run_virtual(heard_through(broker(1, FAULTS), 1000, 0.05))
    numbers = [number for number, _ in heard]
    assert 700 < len(set(numbers)) < 900
    assert 100 < len(numbers) - len(set(numbers)) < 220
    assert numbers != sorted(numbers)


def test_delays_stay_within_their_range() -> None:
    heard = run_virtual(heard_through(broker(1, BusFaults(delay_s=(0.2, 0.3))), 100))
    assert sorted(number for number, _ in heard) == list(range(100))
    assert min(at_s for _, at_s in heard) >= 0.2
    assert max(at_s for _, at_s in heard) <= 0.3


def test_what_is_under_way_when_the_broker_goes_never_arrives() -> None:
    async def main() -> list[bytes]:
        of, heard = broker(faults=BusFaults(delay_s=(1.0, 1.0))), Heard()
        bus = await started(of)
        await bus.subscribe("a", heard)
        await bus.publish("a", b"lost")
        of.stop()
        of.start()
        await eventually(lambda: bus.connected)
        await bus.publish("a", b"late")
        await asyncio.sleep(10)
        await bus.close()
        return heard.data

    assert run_virtual(main()) == [b"late"]


def test_a_client_that_is_cut_off_speaks_into_the_void_until_it_notices() -> None:
    async def main() -> None:
        of, heard = broker(), Heard()
        changes: list[bool] = []
        near, far = await started(of, "near"), await started(of, "far")
        far.on_change(changes.append)
        await near.serve("ask", echo, "group", any_reply)
        await far.subscribe("a", heard)
        far.cut()
        await near.publish("a", b"lost")
        assert far.connected
        with pytest.raises(BusTimeout):
            await far.request("ask", b"", 1.0)
        await asyncio.sleep(NOTICE_S)
        assert changes == [False]
        with pytest.raises(BusUnavailable):
            await far.publish("a", b"")
        assert await near.request("ask", b"", LONG_S) == b"echo "
        far.heal()
        await eventually(lambda: far.connected)
        assert await far.request("ask", b"", LONG_S) == b"echo "
        assert (heard, changes) == ([], [False, True])

    run_virtual(main())


def test_a_short_cut_is_never_noticed() -> None:
    async def main() -> None:
        of = broker()
        changes: list[bool] = []
        bus = await started(of)
        bus.on_change(changes.append)
        for _ in range(5):
            bus.cut()
            await asyncio.sleep(NOTICE_S * 0.9)
            bus.heal()
        await asyncio.sleep(NOTICE_S * 2)
        assert bus.connected
        assert changes == []

    run_virtual(main())


def test_a_queue_group_counts_on_a_member_that_is_cut_off_until_that_is_noticed() -> None:
    async def main() -> None:
        of, heard = broker(), Heard()
        sender, near, far = await started(of), await started(of), await started(of)
        for member in (near, far):
            await member.subscribe("work", heard, queue="group")
        far.cut()
        for _ in range(100):
            await sender.publish("work", b"")
        await asyncio.sleep(NOTICE_S)
        assert 20 < len(heard) < 80
        for _ in range(100):
            await sender.publish("work", b"")
        await asyncio.sleep(1)
        assert 120 < len(heard) < 180

    run_virtual(main())


async def test_events_are_recorded_once_by_message_id_while_there_is_a_stream() -> None:
    of, heard = broker(), Heard()
    bus, subject = await started(of), event_subject(PRODUCT, "j1")
    await bus.subscribe(subject, heard)
    await bus.publish(subject, b"before", "j1:1")
    await bus.ensure_event_stream()
    await bus.publish(subject, b"first", "j1:2")
    await bus.publish(subject, b"again", "j1:2")
    await bus.publish("fleet.v1.other", b"no event", "j1:3")
    await eventually(lambda: len(heard) == 3)
    assert of.events == {"j1:2": Message(subject, b"first")}
    of.delete_stream()
    await bus.publish(subject, b"lost", "j1:4")
    await eventually(lambda: len(heard) == 4)
    assert of.events == {}
    await bus.ensure_event_stream()
    await bus.publish(subject, b"kept", "j1:5")
    await eventually(lambda: of.events)
    assert list(of.events) == ["j1:5"]
    await bus.close()


async def test_the_event_stream_is_no_business_of_a_factory() -> None:
    factory = MemoryBus(broker(), name=F1, rights=factory_rights(F1, [PRODUCT], []))
    await factory.start()
    with pytest.raises(BusError):
        await factory.ensure_event_stream()


async def test_what_is_not_permitted_is_counted() -> None:
    of = broker()
    factory = MemoryBus(of, name=F1, inbox_prefix=inbox_prefix(F1), rights=factory_rights(F1, [PRODUCT], []))
    await factory.start()
    await factory.publish("fleet.v1.ctl.f2", b"")
    await factory.subscribe("fleet.v1.>", Heard())
    assert of.violations == 2


@pytest.mark.parametrize(
    ("pattern", "subject", "covers"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a", False),
        ("a", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a", False),
        ("a.>", "a.b.c", True),
        (">", "a", True),
        ("a.*", "a.*", True),
        ("a.*", "a.>", False),
        ("a.b", "a.*", False),
        ("a.>", "a.>", True),
        ("a.>", "a.*.c", True),
    ],
)
def test_a_pattern_covers_what_the_real_broker_says_it_covers(pattern: str, subject: str, covers: bool) -> None:
    assert matches(pattern, subject) is covers
