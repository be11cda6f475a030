"""Real processes under the checkers: a stopped holder's job goes on elsewhere; a factory that breaks its word is seen.

The scenarios themselves are run by `make chaos-live`; this is a small one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.checkers.registry import violations
from chaos.history import History
from chaos.live.fleet import Shape
from chaos.live.measures import STOPPED_TO_START, measured
from chaos.live.run import LiveRun, Played, Scenario, played
from tests.support.waiting import eventually

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(240)]

HONEST, RECKLESS = "chaos.live.factory", "tests.support.reckless_factory"
LONG_S = 18  # until after the job was given to somebody else


async def a_holder_is_stopped(stage: LiveRun) -> None:
    """Its engine would be at work still when another factory has the job."""
    fleet = stage.fleet
    job_id = await stage.work.hands_in(stage.work.job(f"if [ $GIGAFACTORY_EPOCH = 1 ]; then sleep {LONG_S}; fi"))
    await eventually(lambda: bool(fleet.holders({job_id})), within_s=20.0)
    (holder,) = fleet.holders({job_id})
    holder.pause()
    await eventually(lambda: len(fleet.engines.terms_of(job_id)) == 2, within_s=30.0)
    holder.resume()


async def run(folder: Path, factory_module: str) -> Played:
    shape = Shape(store="sqlite", coordinators=1, factories=2, clients=0, factory_module=factory_module)
    scenario = Scenario("stopped", "a holder is stopped", shape, a_holder_is_stopped)
    return await played(scenario, folder / "fleet", 1, lambda _line: None)


async def test_a_stopped_holders_job_goes_on_elsewhere_and_every_promise_is_kept(tmp_path: Path) -> None:
    done = await run(tmp_path, HONEST)
    assert violations(done.history) == []
    found = measured(done.history)
    assert (found.jobs, found.finished, found.lost) == (1, 1, 0)
    (recovery,) = found.recoveries
    assert (recovery.what, recovery.samples) == (STOPPED_TO_START, 1)
    path = tmp_path / "history.jsonl"
    done.history.save(path)
    assert History.load(path).sha256() == done.history.sha256()


async def test_an_engine_that_outlives_the_trust_in_its_term_is_seen(tmp_path: Path) -> None:
    done = await run(tmp_path, RECKLESS)
    assert "one_engine" in {violation.checker for violation in violations(done.history)}
