"""What is found on a machine, and how little of it counts: only what the enrolment entitles a factory to."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from factory.detect import MACHINES, SYSTEMS, TOOLS, detected
from schemas.ids import check_name
from schemas.job import Stage
from schemas.messages import HelloAnswer
from tests.support.fleet import job_now, submitted
from tests.support.fleet_world import fleet_world
from tests.support.virtual import in_virtual_time
from tests.unit.factory.test_held_terms import stage_is


@pytest.mark.parametrize(
    ("system", "machine", "programs", "found"),
    [
        ("Linux", "x86_64", {"git", "python3", "vi"}, ("arch-x86_64", "git", "os-linux", "python")),
        ("Darwin", "arm64", {"xcodebuild"}, ("arch-arm64", "os-macos", "xcode")),
        ("Windows", "AMD64", {"python", "gmake"}, ("arch-x86_64", "make", "os-windows", "python")),
        ("Linux", "aarch64", set(), ("arch-arm64", "os-linux")),
        ("Plan9", "riscv", {"node", "nodejs"}, ("node",)),
        ("", "", set(), ()),
    ],
)
def test_capabilities_are_found_by_system_processor_and_programs(
    system: str, machine: str, programs: set[str], found: tuple[str, ...]
) -> None:
    assert detected(lambda name: f"/bin/{name}" if name in programs else None, system, machine) == found


def test_what_can_be_found_are_words_that_a_manifest_may_use() -> None:
    every = {*SYSTEMS.values(), *MACHINES.values(), *TOOLS}
    assert {check_name(name) for name in every} == every
    assert len(every) <= 64


@in_virtual_time
async def test_a_coordinator_that_does_not_say_what_it_grants_leaves_a_factory_with_what_was_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        plain = HelloAnswer.model_validate
        monkeypatch.setattr(HelloAnswer, "model_validate", lambda doc: plain({**doc, "capabilities": None}))
        life = await world.factory("f1", capabilities=("gpu",), detected=("docker",), entitled=("docker", "gpu"))
        await life.opened()
        assert life.work.opened.capabilities == ("gpu",)


@in_virtual_time
async def test_what_was_configured_comes_first_where_a_hello_has_no_room_for_all_and_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with fleet_world(tmp_path, monkeypatch) as world:
        found = tuple(f"tool-{number}" for number in range(100))
        life = await world.factory("f1", capabilities=("zebra",), detected=found, entitled=())
        await life.opened()
        said = next(message["capabilities"] for op, message in life.asked if op == "hello")
        assert (said[0], len(said)) == ("zebra", 64)
        assert life.work.opened.capabilities == ()
        assert [one.levelname for one in caplog.records if "not enrolled for, and left out" in one.message] == [
            "WARNING"
        ]


@in_virtual_time
async def test_what_is_found_is_offered_as_far_as_the_factory_is_enrolled_for_it_and_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "factory.opening")
    async with fleet_world(tmp_path, monkeypatch) as world:
        entitled = ("docker", "gpu")
        life = await world.factory("f1", capabilities=("gpu",), detected=("docker", "git"), entitled=entitled)
        await life.opened()
        await asyncio.sleep(1)
        assert life.work.opened.capabilities == ("docker", "gpu")
        mine = await submitted(world.ctx, "mine", capabilities="[docker]")
        other = await submitted(world.ctx, "other", capabilities="[git]")
        await stage_is(world, mine, Stage.BUILDING)
        await asyncio.sleep(30)
        assert (await job_now(world.ctx, other)).stage is Stage.QUEUED
        assert "found, but not offered as it is not enrolled for them: git" in caplog.text
        assert not [one for one in caplog.records if one.levelno >= logging.WARNING], "nobody asked for git"
        assert world.broker.violations == 0, "it asks the broker for nothing that it would refuse"
