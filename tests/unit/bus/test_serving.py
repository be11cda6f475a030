"""Requests side by side, the rest in order; who waited longer than an asker does is dropped, and counted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from bus.port import REQUEST_WAITS_S as WAITS_MAX_S
from bus.port import BusTimeout, Message
from bus.serving import WAITING_MAX, Counts, Serving
from tests.support.virtual import in_virtual_time

BLINK_S = WAITS_MAX_S / 16


def now_s() -> float:
    return asyncio.get_running_loop().time()


def ask(name: str, reply: str | None = "inbox") -> Message:
    return Message(f"ask.{name}", name.encode(), reply)


def _is_allowed(message: Message) -> bool:
    return message.reply == "inbox"


@dataclass
class Desk:
    """A serving whose responders take as long as the test says, and what became of each request."""

    takes_s: dict[str, float] = field(default_factory=dict)
    concurrency: int = 1
    counts: Counts = field(default_factory=Counts)
    begun: list[tuple[str, float]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    running: int = 0
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self.serving = Serving(self._respond, _is_allowed, self._answer, self.concurrency, WAITS_MAX_S, self.counts)

    def hear(self, *names: str) -> None:
        for name in names:
            self.serving.hear(ask(name))

    async def _respond(self, message: Message) -> bytes | None:
        name = message.data.decode()
        self.begun.append((name, now_s()))
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            await asyncio.sleep(self.takes_s.get(name, BLINK_S))
        finally:
            self.running -= 1
        if name.startswith("broken"):
            raise RuntimeError(name)
        return None if name.startswith("mute") else message.data

    async def _answer(self, reply: str, data: bytes) -> None:
        assert reply == "inbox"
        if data == b"unheard":
            raise BusTimeout("nobody hears it")
        self.answered.append(data.decode())


@in_virtual_time
async def test_with_all_responders_busy_the_old_are_dropped_at_their_turn_and_the_young_answered_in_order() -> None:
    at = Desk({"slow": 1.5 * WAITS_MAX_S})
    at.hear("slow")
    await asyncio.sleep(0.25 * WAITS_MAX_S)
    at.hear("old", "as-old")
    await asyncio.sleep(0.75 * WAITS_MAX_S)
    at.hear("young", "younger")
    await asyncio.sleep(0.25 * WAITS_MAX_S)
    at.hear("youngest")
    assert at.counts.dropped == 0, "whether it is too late is known only when its turn comes"
    await asyncio.sleep(WAITS_MAX_S)
    assert at.answered == ["slow", "young", "younger", "youngest"]
    assert at.counts.dropped == 2


@in_virtual_time
async def test_who_waited_just_as_long_as_is_allowed_is_answered() -> None:
    at = Desk({"slow": 1.5 * WAITS_MAX_S})
    at.hear("slow")
    await asyncio.sleep(WAITS_MAX_S / 2)
    at.hear("just-in-time")
    await asyncio.sleep(2 * WAITS_MAX_S)
    assert at.begun == [("slow", 0.0), ("just-in-time", 1.5 * WAITS_MAX_S)]
    assert at.answered == ["slow", "just-in-time"]


@in_virtual_time
async def test_after_a_queue_of_nothing_but_old_requests_the_next_is_answered_at_once() -> None:
    at = Desk({"slow": 3 * WAITS_MAX_S})
    at.hear("slow", *(f"old-{number}" for number in range(100)))
    await asyncio.sleep(3.5 * WAITS_MAX_S)
    assert at.counts.dropped == 100
    heard_s = now_s()
    at.hear("next")
    await asyncio.sleep(2 * BLINK_S)
    assert at.begun == [("slow", 0.0), ("next", heard_s)]
    assert at.answered == ["slow", "next"]


@in_virtual_time
async def test_each_request_is_judged_by_its_own_wait_not_by_that_of_the_queue() -> None:
    """A steady stream that is a little too much: everybody begun has waited no longer than is allowed."""
    takes_s, every_s, count = 0.25 * WAITS_MAX_S, 0.125 * WAITS_MAX_S, 64
    at = Desk({f"r{number}": takes_s for number in range(count)})
    for number in range(count):
        at.hear(f"r{number}")
        await asyncio.sleep(every_s)
    await asyncio.sleep(10 * WAITS_MAX_S)
    waited = [at_s - int(name[1:]) * every_s for name, at_s in at.begun]
    assert max(waited) <= WAITS_MAX_S
    assert [name for name, _ in at.begun] == at.answered == sorted(at.answered, key=lambda name: int(name[1:]))
    assert len(at.answered) + at.counts.dropped == count
    assert at.counts.dropped > 0


@in_virtual_time
async def test_no_more_than_allowed_run_at_once_and_a_free_responder_takes_the_next_at_once() -> None:
    at = Desk(concurrency=3)
    at.hear(*(f"r{number}" for number in range(9)))
    await asyncio.sleep(WAITS_MAX_S)
    assert at.most_at_once == 3
    assert [at_s for _, at_s in at.begun] == [0.0] * 3 + [BLINK_S] * 3 + [2 * BLINK_S] * 3
    assert at.counts.dropped == 0


@in_virtual_time
async def test_a_responder_that_fails_or_has_nothing_to_say_or_is_not_heard_gives_its_place_to_the_next() -> None:
    at = Desk()
    at.hear("broken", "mute", "unheard", "last")
    await asyncio.sleep(WAITS_MAX_S)
    assert at.answered == ["last"]
    assert at.counts == Counts()


@in_virtual_time
async def test_beyond_so_many_that_wait_the_newest_are_dropped_at_once() -> None:
    at = Desk({"slow": 2 * WAITS_MAX_S})
    at.hear("slow", *(f"r{number}" for number in range(WAITING_MAX)))
    assert at.counts.dropped == 0
    at.hear("too-many")
    assert at.counts.dropped == 1
    await at.serving.stop()


@in_virtual_time
async def test_a_request_with_a_reply_that_is_not_allowed_is_refused_unheard_and_takes_nobodys_turn() -> None:
    at = Desk()
    at.serving.hear(ask("forged", "somebody-elses"))
    at.serving.hear(ask("without", None))
    at.hear("good")
    await asyncio.sleep(WAITS_MAX_S)
    assert [name for name, _ in at.begun] == at.answered == ["good"]
    assert at.counts == Counts(refused=2)


@in_virtual_time
async def test_once_stopped_what_runs_is_cancelled_and_what_waits_or_comes_is_never_begun() -> None:
    at = Desk()
    at.hear("runs", "waits")
    await asyncio.sleep(BLINK_S / 2)
    await at.serving.stop()
    at.hear("comes")
    await asyncio.sleep(WAITS_MAX_S)
    assert [name for name, _ in at.begun] == ["runs"]
    assert at.running == 0
    assert at.answered == []
