"""A log reaches the coordinator whole, whatever is lost on the way: a piece is sent when the last was acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from coordinator.term_logs import LogFiles
from factory.link.port import Unanswered
from factory.log_delivery import CHUNK_BYTES, LogAddress, LogDelivery
from schemas.errors import ErrorCode, FleetError
from schemas.ids import JobKey
from schemas.messages import LOG_CHUNK_MAX, LogChunk
from tests.support.full_disk import full_disk
from tests.support.terms import grant
from tests.support.virtual import in_virtual_time
from tests.support.waiting import eventually

KEY = JobKey("shop", "job1")


class Coordinator:
    """Hears chunks. `trouble` gives what becomes of each try: "" (well), "lost" before it, "unheard" after it."""

    def __init__(self, folder: Path, trouble: Iterator[str] | None = None) -> None:
        self.logs = LogFiles(folder)
        self.path = folder / "shop" / "job1" / "1.log"
        self.tries: list[LogChunk] = []
        self.takes_s = 0.0
        self.refuses = False
        self._trouble = trouble or iter(())

    async def send(self, chunk: LogChunk, *, live: bool) -> int:
        self.tries.append(chunk)
        what = next(self._trouble, "")
        await asyncio.sleep(self.takes_s)
        if self.refuses:
            raise FleetError(ErrorCode.FENCED, "not yours")
        if what == "lost":
            raise Unanswered("scripted: it never arrived")
        heard = self.logs.append(LogChunk.model_validate_json(chunk.model_dump_json(by_alias=True)))
        if what == "unheard":
            raise Unanswered("scripted: the answer was lost")
        return heard

    def heard(self) -> bytes:
        return self.path.read_bytes() if self.path.exists() else b""

    def is_whole(self) -> bool:
        return self.logs.is_ended(KEY, 1)


def printed(lines: int) -> bytes:
    return b"".join(f"line {number}: żółw 🐢\n".encode() for number in range(lines))


TROUBLES: dict[str, Callable[[], Iterator[str]]] = {
    "nothing is lost": lambda: iter(()),
    "requests are lost": lambda: iter(["lost", "", "lost", "lost", ""] * 3),
    "answers are lost": lambda: iter(["unheard", "", "unheard", "unheard", ""] * 3),
    "both are lost": lambda: iter(["lost", "unheard", "", "unheard", "lost", "lost"] * 3),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@in_virtual_time
async def test_all_that_was_printed_arrives_once_and_in_order(trouble: str, tmp_path: Path) -> None:
    there = Coordinator(tmp_path / "kept", TROUBLES[trouble]())
    delivery = LogDelivery(tmp_path / "logs", there.send)
    log = delivery.open(grant(), "s1")
    for _ in range(10):
        log.take(printed(500))
        await asyncio.sleep(0.1)
    log.close()
    await delivery.settle(60.0)
    assert there.heard() == printed(500) * 10
    assert there.is_whole()
    assert list((tmp_path / "logs").iterdir()) == []
    assert max(len(chunk.text.encode()) for chunk in there.tries) <= CHUNK_BYTES <= LOG_CHUNK_MAX


@in_virtual_time
async def test_the_end_of_a_term_waits_for_nothing_and_what_is_left_is_brought_by_the_next_session(
    tmp_path: Path,
) -> None:
    there = Coordinator(tmp_path / "kept")
    there.takes_s = 3600.0
    delivery = LogDelivery(tmp_path / "logs", there.send)
    log = delivery.open(grant(), "s1")
    log.take(printed(5000))
    log.close()
    began_s = asyncio.get_running_loop().time()
    await delivery.settle(10.0)
    assert asyncio.get_running_loop().time() - began_s <= 10.0
    await delivery.stop()
    there.takes_s = 0.0
    later = LogDelivery(tmp_path / "logs", there.send)
    assert later.resume() == 1
    await later.settle(60.0)
    assert there.heard() == printed(5000)
    assert there.is_whole()
    assert {chunk.session_id for chunk in there.tries} == {"s1"}
    assert LogDelivery(tmp_path / "logs", there.send).resume() == 0


@in_virtual_time
async def test_output_that_comes_while_a_piece_is_on_its_way_is_not_lost(tmp_path: Path) -> None:
    there = Coordinator(tmp_path / "kept")
    there.takes_s = 1.0
    delivery = LogDelivery(tmp_path / "logs", there.send)
    log = delivery.open(grant(), "s1")
    log.take(b"first\n")
    await asyncio.sleep(0.5)  # the first is on its way
    log.take(b"second\n")
    await eventually(lambda: there.heard() == b"first\nsecond\n")
    assert not there.is_whole(), "its end is promised, and has not come"
    log.close()
    await delivery.settle(10.0)
    assert there.is_whole()


@in_virtual_time
async def test_a_term_that_printed_nothing_has_no_log(tmp_path: Path) -> None:
    there = Coordinator(tmp_path / "kept")
    delivery = LogDelivery(tmp_path / "logs", there.send)
    delivery.open(grant(), "s1").close()
    await delivery.settle(10.0)
    assert there.tries == []
    assert list((tmp_path / "logs").iterdir()) == []


@in_virtual_time
async def test_a_log_that_nobody_wants_is_given_up(tmp_path: Path) -> None:
    there = Coordinator(tmp_path / "kept")
    there.refuses = True
    delivery = LogDelivery(tmp_path / "logs", there.send)
    log = delivery.open(grant(), "s1")
    log.take(b"one\n")
    await asyncio.sleep(1)
    assert len(there.tries) == 1
    assert list((tmp_path / "logs").iterdir()) == []
    log.take(b"two\n")
    log.close()


@in_virtual_time
async def test_what_only_memory_has_is_delivered_too(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("no folder")
    there = Coordinator(tmp_path / "kept")
    delivery = LogDelivery(tmp_path / "logs", there.send)
    log = delivery.open(grant(), "s1")
    log.take(b"one\n")
    log.close()
    await delivery.settle(10.0)
    assert there.heard().decode().endswith("...]\none\n")


@in_virtual_time
async def test_a_coordinator_that_knows_more_than_was_acknowledged_is_sent_only_the_rest(tmp_path: Path) -> None:
    there = Coordinator(tmp_path / "kept")
    delivery = LogDelivery(tmp_path / "logs", there.send)
    log = delivery.open(grant(), "s1")
    log.take(printed(4000))
    log.close()
    await asyncio.sleep(0)
    await delivery.settle(60.0)
    again = LogDelivery(tmp_path / "again", there.send)
    tries = len(there.tries)
    log = again.open(grant(), "s1")
    log.take(printed(4000))
    log.close()
    await again.settle(60.0)
    assert len(there.tries) - tries < tries
    assert there.heard() == printed(4000)


@in_virtual_time
async def test_a_character_of_which_the_disk_took_a_part_stops_no_log(tmp_path: Path) -> None:
    coordinator = Coordinator(tmp_path / "logs")
    delivery = LogDelivery(tmp_path / "factory", coordinator.send)
    output = delivery.open(grant(), "s1")
    text = "x" * 20_000 + "ż after\n"
    with full_disk(20_001):
        output.take(text.encode())
    await asyncio.sleep(5)
    output.close()
    await delivery.settle(30)
    assert coordinator.is_whole()
    assert coordinator.heard().decode().startswith(text)
    assert len(coordinator.tries) < 10


@in_virtual_time
async def test_a_log_that_a_killed_factory_left_in_the_middle_of_a_character_is_brought_to_its_end(
    tmp_path: Path,
) -> None:
    coordinator, folder = Coordinator(tmp_path / "logs"), tmp_path / "factory"
    folder.mkdir()
    (folder / "job1-1.json").write_bytes(orjson.dumps(LogAddress(*KEY, 1, "s1")._asdict()))
    (folder / "job1-1.log").write_bytes("ż".encode() * 3 + b"\xc5")
    delivery = LogDelivery(folder, coordinator.send)
    assert delivery.resume() == 1
    await delivery.settle(30)
    assert coordinator.is_whole()
    assert coordinator.heard().decode() == "żżż\ufffd"
    assert len(coordinator.tries) == 1
