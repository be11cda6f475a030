"""What any bus must do, as one class of tests; each implementation's test module subclasses it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest

from bus.port import MESSAGE_BYTES_MAX, BusError, BusTimeout, BusUnavailable, Message
from bus.subjects import (
    COORDINATORS,
    came_subject,
    ctl_subject,
    event_subject,
    gone_subject,
    inbox_prefix,
    is_own_inbox,
    log_subject,
    logs_of_job,
    offer_subject,
    rpc_subject,
    rpc_wildcard,
)
from tests.support.bus_world import CAPABILITY, F1, F2, LONG_S, PRODUCT, PROMPTLY_S, BusWorld, Heard, any_reply, echo
from tests.support.waiting import eventually


class BusContract:
    @pytest.fixture
    async def world(self) -> BusWorld:
        raise AssertionError("the subclass gives the world")

    async def test_a_message_is_heard_once_by_each_listener_in_order(self, world: BusWorld) -> None:
        sender, first, second = await world.started(), Heard(), Heard()
        await sender.subscribe(ctl_subject(F1), first)
        await (await world.started()).subscribe(ctl_subject(F1), second)
        sent = [str(number).encode() for number in range(50)]
        for data in sent:
            await sender.publish(ctl_subject(F1), data)
        await eventually(lambda: len(first) >= 50 and len(second) >= 50)
        assert first.data == second.data == sent
        assert first[0] == Message(ctl_subject(F1), b"0", None)

    async def test_a_listener_never_runs_inside_the_call_that_publishes(self, world: BusWorld) -> None:
        bus, heard = await world.started(), Heard()
        await bus.subscribe(ctl_subject(F1), heard)
        await bus.publish(ctl_subject(F1), b"x")
        assert heard == []
        await eventually(lambda: heard)

    async def test_wildcards_hear_what_they_cover_and_nothing_else(self, world: BusWorld) -> None:
        bus, one_level, rest, end = await world.started(), Heard(), Heard(), Heard()
        await bus.subscribe("a.*.c", one_level)
        await bus.subscribe("a.>", rest)
        await bus.subscribe("end", end)
        for subject in ("a.b.c", "a.b", "a", "a.b.c.d", "x.b.c", "a.x.c", "end"):
            await bus.publish(subject, b"")
        await eventually(lambda: end)
        assert [message.subject for message in one_level] == ["a.b.c", "a.x.c"]
        assert [message.subject for message in rest] == ["a.b.c", "a.b", "a.b.c.d", "a.x.c"]

    async def test_logs_of_a_job_are_heard_from_whichever_factory_runs_it(self, world: BusWorld) -> None:
        watcher, heard = await world.started(), Heard()
        await watcher.subscribe(logs_of_job(PRODUCT, "j1"), heard)
        for factory_id in (F1, F2):
            factory = await world.started(factory_id)
            await factory.publish(log_subject(PRODUCT, factory_id, "j2"), b"another job")
            await factory.publish(log_subject(PRODUCT, factory_id, "j1"), factory_id.encode())
        await eventually(lambda: len(heard) >= 2)
        assert sorted(heard.data) == [b"f1", b"f2"]

    async def test_each_message_goes_to_one_member_of_a_queue_group(self, world: BusWorld) -> None:
        sender, ends = await world.started(), Heard()
        members = [Heard(), Heard(), Heard()]
        for member in members:
            bus = await world.started()
            await bus.subscribe("work", member, queue="group")
            await bus.subscribe("end", ends)
        for number in range(100):
            await sender.publish("work", str(number).encode())
        await sender.publish("end", b"")
        await eventually(lambda: len(ends) == 3)
        got = sorted(int(data) for member in members for data in member.data)
        assert got == list(range(100))
        assert all(members)

    async def test_a_stopped_subscription_hears_nothing_more(self, world: BusWorld) -> None:
        bus, stopped, other = await world.started(), Heard(), Heard()
        subscription = await bus.subscribe("a", stopped)
        await bus.subscribe("a", other)
        await subscription.stop()
        await bus.publish("a", b"")
        await eventually(lambda: other)
        assert stopped == []

    async def test_a_listener_that_fails_hears_the_next_message_all_the_same(self, world: BusWorld) -> None:
        bus, heard = await world.started(), Heard()

        def listener(message: Message) -> None:
            heard(message)
            raise RuntimeError("bad listener")

        await bus.subscribe("a", listener)
        await bus.publish("a", b"1")
        await bus.publish("a", b"2")
        await eventually(lambda: len(heard) == 2)

    async def test_a_request_is_answered_into_the_askers_own_inbox(self, world: BusWorld) -> None:
        coordinator, factory = await world.started(), await world.started(F1)
        replies: list[str | None] = []

        async def respond(message: Message) -> bytes:
            replies.append(message.reply)
            return b"answer to " + message.data

        await coordinator.serve(rpc_wildcard(), respond, COORDINATORS, lambda m: is_own_inbox(F1, m.reply or ""))
        assert await factory.request(rpc_subject(F1, "claim"), b"q", LONG_S) == b"answer to q"
        assert replies[0] is not None
        assert replies[0].startswith(f"{inbox_prefix(F1)}.")

    async def test_of_several_coordinators_exactly_one_answers(self, world: BusWorld) -> None:
        asker, served = await world.started(F1), Heard()

        async def respond(message: Message) -> bytes:
            served(message)
            return message.data

        for _ in range(3):
            await (await world.started()).serve(rpc_wildcard(), respond, COORDINATORS, any_reply)
        for number in range(20):
            data = str(number).encode()
            assert await asker.request(rpc_subject(F1, "claim"), data, LONG_S) == data
        assert len(served) == 20

    async def test_a_request_that_nobody_hears_fails_at_once(self, world: BusWorld) -> None:
        bus, began = await world.started(), time.monotonic()
        with pytest.raises(BusUnavailable):
            await bus.request(rpc_subject(F1, "claim"), b"", LONG_S)
        assert time.monotonic() - began < PROMPTLY_S

    async def test_a_request_that_nobody_answers_times_out(self, world: BusWorld) -> None:
        bus = await world.started()

        async def silent(message: Message) -> bytes | None:
            return None

        await bus.serve("ask", silent, COORDINATORS, any_reply)
        with pytest.raises(BusTimeout):
            await bus.request("ask", b"", 0.05)

    async def test_a_responder_that_fails_leaves_that_request_unanswered_and_goes_on(self, world: BusWorld) -> None:
        bus = await world.started()

        async def respond(message: Message) -> bytes:
            if message.data == b"bad":
                raise RuntimeError("bad request")
            return b"good"

        await bus.serve("ask", respond, COORDINATORS, any_reply)
        with pytest.raises(BusTimeout):
            await bus.request("ask", b"bad", 0.05)
        assert await bus.request("ask", b"", LONG_S) == b"good"

    async def test_responders_run_side_by_side_up_to_their_bound(self, world: BusWorld) -> None:
        bus, running, most, gate = await world.started(), 0, 0, asyncio.Event()

        async def respond(message: Message) -> bytes:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await gate.wait()
            running -= 1
            return message.data

        await bus.serve("ask", respond, COORDINATORS, any_reply, concurrency=4)
        asked = [asyncio.create_task(bus.request("ask", bytes([number]), LONG_S)) for number in range(12)]
        await eventually(lambda: running == 4)
        heard = Heard()
        await bus.subscribe("other", heard)
        await bus.publish("other", b"")
        await eventually(lambda: heard)  # busy responders hold up nothing else
        gate.set()
        assert await asyncio.gather(*asked) == [bytes([number]) for number in range(12)]
        assert most == 4

    async def test_a_request_with_a_foreign_reply_is_dropped_unheard_and_counted(self, world: BusWorld) -> None:
        coordinator, asked = await world.started(), Heard()

        async def respond(message: Message) -> bytes:
            asked(message)
            return b""

        await coordinator.serve(rpc_wildcard(), respond, COORDINATORS, lambda m: is_own_inbox(F1, m.reply or ""))
        with pytest.raises(BusTimeout):
            await (await world.started(F2)).request(rpc_subject(F2, "claim"), b"", 0.05)
        await (await world.started(F2)).publish(rpc_subject(F2, "claim"), b"no reply at all")
        await eventually(lambda: coordinator.refused == 2)
        assert asked == []
        await (await world.started(F1)).request(rpc_subject(F1, "claim"), b"", LONG_S)
        assert coordinator.refused == 2

    async def test_stopping_a_service_cancels_what_it_runs_and_hears_nothing_more(self, world: BusWorld) -> None:
        bus, started, cancelled = await world.started(), asyncio.Event(), asyncio.Event()

        async def respond(message: Message) -> bytes | None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return None

        service = await bus.serve("ask", respond, COORDINATORS, any_reply)
        asking = asyncio.create_task(bus.request("ask", b"", 0.1))
        await started.wait()
        await service.stop()
        assert cancelled.is_set()
        with pytest.raises(BusTimeout):
            await asking
        with pytest.raises(BusUnavailable):
            await bus.request("ask", b"", LONG_S)

    async def test_a_message_that_is_too_large_is_refused_and_the_connection_stays(self, world: BusWorld) -> None:
        bus, heard = await world.started(), Heard()
        changes: list[bool] = []
        bus.on_change(changes.append)
        await bus.subscribe("a", heard)
        with pytest.raises(BusError):
            await bus.publish("a", b"x" * (MESSAGE_BYTES_MAX + 1))
        with pytest.raises(BusError):
            await bus.publish("a", b"x" * MESSAGE_BYTES_MAX, message_id="e1")  # its header is too much
        with pytest.raises(BusError):
            await bus.request("a", b"x" * (MESSAGE_BYTES_MAX + 1), LONG_S)
        await bus.publish("a", b"x" * MESSAGE_BYTES_MAX)
        await eventually(lambda: heard)
        assert [len(data) for data in heard.data] == [MESSAGE_BYTES_MAX]
        assert changes == []

    async def test_start_returns_promptly_without_a_broker_and_connects_when_it_comes(self, world: BusWorld) -> None:
        world.stop_broker()
        bus, heard = world.bus(), Heard()
        changes: list[bool] = []
        bus.on_change(changes.append)
        await bus.subscribe("a", heard)
        began = time.monotonic()
        await bus.start()
        assert time.monotonic() - began < PROMPTLY_S
        assert not bus.connected
        with pytest.raises(BusUnavailable):
            await bus.publish("a", b"")
        world.start_broker()
        await eventually(lambda: bus.connected)
        await bus.publish("a", b"1")
        await eventually(lambda: heard)
        assert changes == [True]

    async def test_while_the_broker_is_away_every_call_fails_at_once_and_nothing_is_sent_late(
        self, world: BusWorld
    ) -> None:
        bus, heard = await world.started(), Heard()
        await bus.subscribe("a", heard)
        world.stop_broker()
        await eventually(lambda: not bus.connected)
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(BusUnavailable):
                await bus.publish("a", b"during")
            with pytest.raises(BusUnavailable):
                await bus.request("a", b"during", LONG_S)
        with pytest.raises(BusUnavailable):
            await bus.ensure_event_stream()
        assert time.monotonic() - began < PROMPTLY_S
        world.start_broker()
        await eventually(lambda: bus.connected)
        await bus.publish("a", b"after")
        await eventually(lambda: heard)
        assert heard.data == [b"after"]

    async def test_subscriptions_and_services_survive_an_outage(self, world: BusWorld) -> None:
        coordinator, factory, heard = await world.started(), await world.started(F1), Heard()
        await factory.subscribe(ctl_subject(F1), heard)
        await coordinator.serve(rpc_wildcard(), echo, COORDINATORS, any_reply)
        for turn in (b"1", b"2"):
            world.stop_broker()
            await eventually(lambda: not coordinator.connected and not factory.connected)
            world.start_broker()
            await eventually(lambda: coordinator.connected and factory.connected)
            await coordinator.publish(ctl_subject(F1), turn)
            assert await factory.request(rpc_subject(F1, "claim"), turn, LONG_S) == b"echo " + turn
        await eventually(lambda: len(heard) >= 2)
        assert heard.data == [b"1", b"2"]

    async def test_what_is_subscribed_and_stopped_while_away_is_so_afterwards(self, world: BusWorld) -> None:
        bus, late, stopped = await world.started(), Heard(), Heard()
        before = await bus.subscribe("a", stopped)
        world.stop_broker()
        await eventually(lambda: not bus.connected)
        await bus.subscribe("a", late)
        await before.stop()
        world.start_broker()
        await eventually(lambda: bus.connected)
        await bus.publish("a", b"")
        await eventually(lambda: late)
        assert stopped == []

    async def test_a_change_is_told_once_each_time(self, world: BusWorld) -> None:
        bus = world.bus()
        changes: list[tuple[bool, bool]] = []

        def failing(connected: bool) -> None:
            raise RuntimeError("bad listener")

        bus.on_change(failing)
        bus.on_change(lambda connected: changes.append((connected, bus.connected)))
        await bus.start()
        await eventually(lambda: changes == [(True, True)])
        world.stop_broker()
        await eventually(lambda: changes == [(True, True), (False, False)])
        world.start_broker()
        await eventually(lambda: changes == [(True, True), (False, False), (True, True)])

    async def test_a_request_under_way_fails_when_the_broker_goes(self, world: BusWorld) -> None:
        bus, started = await world.started(), asyncio.Event()

        async def respond(message: Message) -> bytes | None:
            started.set()
            await asyncio.Event().wait()
            return None

        await bus.serve("ask", respond, COORDINATORS, any_reply)
        asking = asyncio.create_task(bus.request("ask", b"", LONG_S))
        await started.wait()
        world.stop_broker()
        with pytest.raises(BusUnavailable):
            await asking

    async def test_a_closed_bus_refuses_and_leaves_no_task(self, world: BusWorld) -> None:
        before = asyncio.all_tasks()
        connected, unconnected = await world.started(), world.bus()
        for bus in (connected, unconnected):
            await bus.serve("ask", echo, COORDINATORS, any_reply)
        world.stop_broker()
        await eventually(lambda: not connected.connected)
        await unconnected.start()
        world.start_broker()
        await eventually(lambda: connected.connected and unconnected.connected)
        began = time.monotonic()
        for bus in (connected, unconnected):
            await bus.close()
            assert not bus.connected
            with pytest.raises(BusUnavailable):
                await bus.publish("ask", b"")
        assert time.monotonic() - began < PROMPTLY_S
        assert asyncio.all_tasks() == before

    async def test_last_words_before_close_are_heard(self, world: BusWorld) -> None:
        listener, speaker, heard = await world.started(), await world.started(), Heard()
        await listener.subscribe("a", heard)
        await speaker.publish("a", b"drained")
        await speaker.close()
        await eventually(lambda: heard)

    async def test_a_factory_cannot_ask_in_anothers_name(self, world: BusWorld) -> None:
        coordinator, asked = await world.started(), Heard()

        async def respond(message: Message) -> bytes:
            asked(message)
            return b""

        await coordinator.serve(rpc_wildcard(), respond, COORDINATORS, any_reply)
        thief = await world.started(F2)
        with pytest.raises(BusTimeout):
            await thief.request(rpc_subject(F1, "claim"), b"", 0.05)
        await thief.publish(ctl_subject(F1), b"")
        await thief.request(rpc_subject(F2, "claim"), b"", LONG_S)
        assert [message.subject for message in asked] == [rpc_subject(F2, "claim")]

    async def test_a_factory_hears_only_its_own_orders_and_offers_that_it_could_run(self, world: BusWorld) -> None:
        coordinator, entitled, other = await world.started(), Heard(), Heard()
        mine = [ctl_subject(F1), offer_subject(PRODUCT, CAPABILITY), offer_subject(PRODUCT, "any")]
        foreign = [
            event_subject(PRODUCT, "j1"),
            offer_subject("p9", "any"),
            offer_subject(PRODUCT, "other"),
            rpc_subject(F1, "claim"),
            gone_subject(),
        ]
        first, second = await world.started(F1), await world.started(F2)
        for subject in [*foreign, "fleet.v1.>", "_INBOX.>", ">", *mine]:
            await first.subscribe(subject, entitled)
            await second.subscribe(subject, other)
        await second.subscribe(ctl_subject(F2), other)
        for subject in [*foreign, *mine, ctl_subject(F2)]:
            await coordinator.publish(subject, b"")
        await eventually(lambda: len(entitled) >= 3 and len(other) >= 2)
        assert [message.subject for message in entitled] == mine
        assert [message.subject for message in other] == [mine[2], ctl_subject(F2)]

    async def test_coordinators_are_told_who_came_and_whose_connection_has_ended(self, world: BusWorld) -> None:
        coordinator, told = await world.started(), Heard()
        for subject in (came_subject(), gone_subject()):
            await coordinator.subscribe(subject, told)
            await coordinator.publish(subject, b"{}")  # once this is heard, the broker knows of the subscription

        def echoes() -> int:
            return sum(message.data == b"{}" for message in told)

        def of_factory() -> list[tuple[str, Any]]:
            """The broker may still tell of the coordinator's own connection."""
            clients = [(one.subject, orjson.loads(one.data).get("client", {})) for one in told]
            return [(subject, client) for subject, client in clients if client.get("name") == F1]

        await eventually(lambda: echoes() == 2)
        factory = await world.started(F1)
        await factory.close()
        await eventually(lambda: len(of_factory()) == 2)
        assert [subject for subject, _ in of_factory()] == [came_subject(), gone_subject()]
        assert {client["user"] for _, client in of_factory()} == {world.public_of(F1)}
