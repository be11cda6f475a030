"""A machine that fails job after job takes no more of them, says why, and comes back by itself."""

from __future__ import annotations

import asyncio

import pytest

from factory.fitness import IN_A_ROW, PROBE_FIRST_S, PROBE_MAX_S, Fitness
from factory.term import TermEnd
from schemas.messages import Grant
from schemas.outcome import Outcome, Result
from tests.support.terms import grant
from tests.support.virtual import in_virtual_time


class Machine:
    def __init__(self) -> None:
        self.works = False
        self.probed: list[tuple[float, str]] = []
        self.turned: list[str | None] = []
        self.fitness = Fitness(self.probe)
        self.fitness.changed.listen(lambda: self.turned.append(self.fitness.unfit))

    async def probe(self, failed: Grant) -> None:
        self.probed.append((asyncio.get_running_loop().time(), failed.job_id))
        if not self.works:
            raise OSError("the disk is read-only")

    def ends(self, job_id: str, outcome: Outcome = Outcome.MACHINE_FAILED, *, shows_machine: bool = True) -> None:
        self.fitness.heard_end(
            grant(job_id),
            TermEnd(Result(outcome=outcome, summary="no space left\nmore words"), shows_machine=shows_machine),
        )


@in_virtual_time
async def test_so_many_jobs_in_a_row_make_a_machine_unfit_and_the_reason_is_the_last_one() -> None:
    machine = Machine()
    for number in range(IN_A_ROW - 1):
        machine.ends(f"job{number}")
    assert machine.turned == []
    machine.ends("another")
    assert machine.turned == [f"{IN_A_ROW} jobs in a row could not be run here: no space left"]


@in_virtual_time
async def test_one_job_again_and_again_tells_nothing_of_the_machine() -> None:
    machine = Machine()
    for _ in range(10):
        machine.ends("job1")
    assert machine.fitness.unfit is None


@pytest.mark.parametrize(
    ("between", "fit"),
    [
        (Outcome.OK, True),
        (Outcome.ENGINE_FAILED, True),
        (Outcome.VERIFY_FAILED, True),
        (Outcome.TIMEOUT, True),
        (Outcome.CANCELLED, False),
        (Outcome.RELEASED, False),
        (Outcome.UNRUNNABLE, False),
    ],
)
@in_virtual_time
async def test_an_engine_that_ran_shows_that_the_machine_works(between: Outcome, fit: bool) -> None:
    machine = Machine()
    for number in range(IN_A_ROW - 1):
        machine.ends(f"job{number}")
    machine.ends("between", between)
    machine.ends("another")
    assert (machine.fitness.unfit is None) is fit


@in_virtual_time
async def test_it_probes_the_last_job_at_longer_and_longer_intervals_until_that_works() -> None:
    machine = Machine()
    running = asyncio.create_task(machine.fitness.run())
    for number in range(IN_A_ROW):
        machine.ends(f"job{number}")
    await asyncio.sleep(4000.0)
    at = [when for when, _ in machine.probed]
    waits = [later - earlier for earlier, later in zip([0.0, *at], at, strict=False)]
    assert waits[:3] == [PROBE_FIRST_S, 2 * PROBE_FIRST_S, 4 * PROBE_FIRST_S]
    assert max(waits) == PROBE_MAX_S
    assert {job for _, job in machine.probed} == {f"job{IN_A_ROW - 1}"}
    machine.works = True
    await asyncio.sleep(PROBE_MAX_S)
    assert machine.fitness.unfit is None
    assert machine.turned[-1] is None
    seen = len(machine.probed)
    await asyncio.sleep(PROBE_MAX_S)
    assert len(machine.probed) == seen, "a fit machine is not probed"
    machine.ends("later")
    assert machine.fitness.unfit is None, "what was before counts no more"
    running.cancel()


@in_virtual_time
async def test_an_engine_that_comes_to_its_end_on_another_seat_is_as_good_as_a_probe() -> None:
    machine = Machine()
    running = asyncio.create_task(machine.fitness.run())
    for number in range(IN_A_ROW):
        machine.ends(f"job{number}")
    assert machine.fitness.unfit is not None
    machine.ends("other", Outcome.OK)
    assert machine.fitness.unfit is None
    await asyncio.sleep(1000.0)
    assert machine.probed == []
    running.cancel()


@in_virtual_time
async def test_jobs_whose_source_is_not_there_tell_nothing_of_the_machine() -> None:
    machine = Machine()
    for number in range(3 * IN_A_ROW):
        machine.ends(f"job{number}", shows_machine=False)
    assert machine.fitness.unfit is None
