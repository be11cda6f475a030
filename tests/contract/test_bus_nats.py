import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bus.nats import DUPLICATE_WINDOW_S, EVENTS_BYTES_MAX, EVENTS_KEPT_S, NatsBus, NatsSettings
from bus.port import Bus, BusTimeout, BusUnavailable
from bus.server import BrokerConfig, BrokerUser, NatsServer, NkeyPair, create_nkey
from bus.subjects import EVENT_STREAM, ctl_subject, event_subject, event_wildcard, inbox_prefix
from tests.contract.bus_contract import BusContract
from tests.support.bus_world import CAPABILITY, F1, F2, LONG_S, PRODUCT, PROMPTLY_S, BusWorld, Heard
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("processes")

# Slow pings: fast ones take a busy machine for a frozen broker.
SETTINGS = NatsSettings(connect_timeout_s=5.0, reconnect_wait_s=0.02, ping_interval_s=30.0)
WATCHFUL = NatsSettings(connect_timeout_s=1.0, reconnect_wait_s=0.02, ping_interval_s=0.2)


@dataclass
class Keys:
    coordinator: NkeyPair
    system: NkeyPair
    factories: dict[str, NkeyPair]

    @classmethod
    def create(cls) -> "Keys":
        return cls(create_nkey(), create_nkey(), {F1: create_nkey(), F2: create_nkey()})

    def config(self, *factory_ids: str) -> BrokerConfig:
        capabilities = {F1: (CAPABILITY,), F2: ()}
        users = (
            BrokerUser(factory_id, self.factories[factory_id].public, (PRODUCT,), capabilities[factory_id])
            for factory_id in factory_ids
        )
        return BrokerConfig(self.coordinator.public, self.system.public, tuple(users))


class NatsWorld(BusWorld):
    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.keys = Keys.create()
        self.server = NatsServer(directory, self.keys.config(F1, F2), die_with_parent=True)
        self.settings = SETTINGS
        self.server.start()

    def make_bus(self, factory_id: str | None) -> Bus:
        key = self.keys.coordinator if factory_id is None else self.keys.factories[factory_id]
        return NatsBus(
            self.server.url,
            nkey_seed=key.seed,
            inbox_prefix=None if factory_id is None else inbox_prefix(factory_id),
            name=factory_id or "coordinator",
            settings=self.settings,
        )

    def public_of(self, factory_id: str) -> str:
        return self.keys.factories[factory_id].public

    def stop_broker(self) -> None:
        self.server.kill()

    def start_broker(self) -> None:
        self.server.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        os.kill(self.server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.server.pid, signal.SIGCONT)


async def api(bus: Bus, call: str, **fields: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        await bus.request(f"$JS.API.{call}.{EVENT_STREAM}", json.dumps(fields).encode(), LONG_S)
    )
    return answer


async def recorded(bus: Bus, count: int) -> None:
    """Waits until the stream holds so many events."""
    for _ in range(1000):
        if (await api(bus, "STREAM.INFO"))["state"]["messages"] == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"the stream never held {count} events")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[NatsWorld]:
    world = NatsWorld(tmp_path)
    yield world
    await world.close()
    world.server.stop()


class TestNatsBus(BusContract):
    @pytest.fixture
    async def world(self, world: NatsWorld) -> NatsWorld:
        return world


async def test_a_repeated_event_is_recorded_once(world: NatsWorld) -> None:
    bus, subject = await world.started(), event_subject(PRODUCT, "j1")
    await bus.ensure_event_stream()
    for message_id in ("j1:1", "j1:1", "j1:2", "j1:1"):
        await bus.publish(subject, b"", message_id)
    await bus.publish(subject, b"", "last")
    await recorded(bus, 3)


async def test_the_event_stream_is_made_again_after_its_deletion(world: NatsWorld) -> None:
    bus, subject = await world.started(), event_subject(PRODUCT, "j1")
    for _ in range(3):
        await bus.ensure_event_stream()
        await bus.publish(subject, b"", "j1:1")
        await recorded(bus, 1)
        assert (await api(bus, "STREAM.DELETE"))["success"]
        await bus.publish(subject, b"", "j1:2")  # no error: the bus holds no truth


async def test_the_event_stream_outlives_the_broker(world: NatsWorld) -> None:
    bus = await world.started()
    await bus.ensure_event_stream()
    await bus.publish(event_subject(PRODUCT, "j1"), b"", "j1:1")
    await recorded(bus, 1)
    world.server.restart()
    await eventually(lambda: not bus.connected)
    await eventually(lambda: bus.connected)
    await bus.ensure_event_stream()
    await recorded(bus, 1)


async def test_a_stream_with_other_limits_gets_ours_and_keeps_the_rest(world: NatsWorld) -> None:
    bus = await world.started()
    config = {"name": EVENT_STREAM, "subjects": ["other.>"], "storage": "file", "description": "an operator's"}
    assert "error" not in await api(bus, "STREAM.CREATE", **config, max_age=10**9, duplicate_window=10**9)
    await bus.ensure_event_stream()
    set_up = (await api(bus, "STREAM.INFO"))["config"]
    assert set_up["subjects"] == [event_wildcard()]
    assert set_up["max_age"] == EVENTS_KEPT_S * 10**9
    assert set_up["max_bytes"] == EVENTS_BYTES_MAX
    assert set_up["duplicate_window"] == DUPLICATE_WINDOW_S * 10**9
    assert (set_up["retention"], set_up["storage"]) == ("limits", "file")
    assert set_up["description"] == "an operator's"


async def test_the_stream_api_is_the_coordinators_alone(world: NatsWorld) -> None:
    factory = await world.started(F1)
    with pytest.raises(BusTimeout):
        await factory.request("$JS.API.INFO", b"", 0.05)


async def test_a_refusal_is_logged_and_no_secret_with_it(world: NatsWorld, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    factory = await world.started(F1)
    await factory.publish(ctl_subject(F2), b"")
    await eventually(lambda: "permissions violation" in caplog.text)
    assert ctl_subject(F2) in caplog.text
    world.server.reload(world.keys.config())
    await eventually(lambda: "authorization violation" in caplog.text.lower())
    seed = world.keys.factories[F1].seed
    for shown in (caplog.text, repr(factory), repr(world.keys.factories[F1])):
        assert seed not in shown


async def test_a_revoked_factory_is_dropped_and_one_enrolled_again_comes_back(world: NatsWorld) -> None:
    coordinator, revoked, other = await world.started(), await world.started(F1), await world.started(F2)
    undisturbed: list[bool] = []
    heard = Heard()
    coordinator.on_change(undisturbed.append)
    other.on_change(undisturbed.append)
    await revoked.subscribe(ctl_subject(F1), heard)
    world.server.reload(world.keys.config(F2))
    await eventually(lambda: not revoked.connected)
    with pytest.raises(BusUnavailable):
        await revoked.publish(ctl_subject(F1), b"")
    world.server.reload(world.keys.config(F1, F2))
    await eventually(lambda: revoked.connected)
    await coordinator.publish(ctl_subject(F1), b"")
    await eventually(lambda: heard)
    assert undisturbed == []


async def test_one_who_was_never_enrolled_does_not_get_in(world: NatsWorld) -> None:
    world.keys.factories[F1] = create_nkey()
    stranger = world.bus(F1)
    await stranger.start()
    assert not stranger.connected


@pytest.mark.parametrize("secret", ["SUAnoseed", "", "s3cret"])
def test_a_seed_that_cannot_be_read_is_said_without_showing_it(secret: str) -> None:
    with pytest.raises(ValueError, match="cannot be read") as said:
        NatsBus("nats://127.0.0.1:4222", nkey_seed=secret, inbox_prefix=None, name="x")
    assert not secret or secret not in str(said.value)


@pytest.mark.parametrize("url", ["127.0.0.1:4222", "http://127.0.0.1", "nats://"])
def test_an_address_that_cannot_work_is_said(url: str) -> None:
    with pytest.raises(ValueError, match="nats://host:port"):
        NatsBus(url, nkey_seed=None, inbox_prefix=None, name="x")


async def test_a_password_in_the_address_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bus = NatsBus("nats://me:s3cret@127.0.0.1:1", nkey_seed=None, inbox_prefix=None, name="x")
    await bus.start()
    with pytest.raises(BusUnavailable) as said:
        await bus.publish("a", b"")
    await bus.close()
    assert "127.0.0.1:1" in caplog.text
    for shown in (caplog.text, str(said.value), repr(bus)):
        assert "s3cret" not in shown


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGSTOP")
@pytest.mark.parametrize("unsent_kib", [0, 32 * 1024])
async def test_a_frozen_broker_is_noticed_and_forgets_nothing_that_was_asked(world: NatsWorld, unsent_kib: int) -> None:
    """More than the kernel's buffers hold must not hold up the loss, the replacement or the close."""
    world.settings = WATCHFUL
    bus, heard = await world.started(), Heard()
    await bus.subscribe("a", heard)
    with world.frozen():
        for _ in range(unsent_kib // 512):
            await bus.publish("b", b"x" * 512 * 1024)
        began = time.monotonic()
        await eventually(lambda: not bus.connected)
        assert time.monotonic() - began < PROMPTLY_S
        with pytest.raises(BusUnavailable):
            await bus.publish("a", b"during")
    await eventually(lambda: bus.connected)
    await bus.publish("a", b"after")
    await eventually(lambda: heard)
    assert heard.data == [b"after"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGSTOP")
async def test_close_is_prompt_with_a_frozen_broker(world: NatsWorld) -> None:
    before = asyncio.all_tasks()
    bus, never = await world.started(), world.bus()
    with world.frozen():
        for _ in range(64):
            await bus.publish("b", b"x" * 512 * 1024)
        began = time.monotonic()
        await never.start()
        assert time.monotonic() - began < PROMPTLY_S
        await bus.close()
        await never.close()
        assert time.monotonic() - began < 2 * PROMPTLY_S
        assert asyncio.all_tasks() == before


async def test_what_a_slow_listener_loses_is_counted(world: NatsWorld) -> None:
    world.settings = NatsSettings(ping_interval_s=30.0, pending_messages_max=5)
    listener, sender, heard = await world.started(), await world.started(), Heard()
    await listener.subscribe("a", heard)
    for _ in range(2000):
        await sender.publish("a", b"")
    await eventually(lambda: len(heard) + listener.dropped == 2000)
    assert listener.dropped > 0


async def test_the_system_account_hears_a_factory_vanish(world: NatsWorld) -> None:
    system = NatsBus(
        world.server.url, nkey_seed=world.keys.system.seed, inbox_prefix=None, name="sys", settings=SETTINGS
    )
    world.buses.append(system)
    await system.start()
    gone = Heard()
    await system.subscribe("$SYS.ACCOUNT.FLEET.DISCONNECT", gone)
    factory = await world.started(F1)
    await factory.close()
    await eventually(lambda: gone)
    assert json.loads(gone[0].data)["client"]["name"] == F1
