from __future__ import annotations

from pathlib import Path

import chaos.checkers
from chaos.checkers.registry import CHECKERS, violations
from chaos.history import History
from tests.unit.chaos.builder import Told, whole_life


def test_a_legal_life_gives_no_violation() -> None:
    assert violations(whole_life().history) == []


def test_an_empty_history_gives_no_violation() -> None:
    assert violations(History()) == []


def test_a_history_from_a_file_is_judged_as_the_one_that_was_saved(tmp_path: Path) -> None:
    told = whole_life()
    told.history.documents["fleet_jobs"].clear()
    told.history.save(tmp_path / "history")
    again = violations(History.load(tmp_path / "history"))
    assert [one.what for one in again] == [one.what for one in violations(told.history)]


def test_each_checker_has_its_own_file_and_name_and_none_is_left_out() -> None:
    for name, check in CHECKERS.items():
        assert check.__module__ == f"chaos.checkers.{name}"
    assert chaos.checkers.__file__ is not None
    files = {path.stem for path in Path(chaos.checkers.__file__).parent.glob("*.py")}
    assert set(CHECKERS) == files - {"__init__", "early_recovery", "registry"}


def test_a_long_legal_history_gives_no_violation() -> None:
    told = Told()
    told.enrolled("f1")
    told.up("f1", seats=9)
    for number in range(750):
        told.at(number)
        job = told.submit(f"k{number}", lock="deploy")
        told.granted(job, "f1", request=f"r{number}")
        told.engine("begins", "f1", job)
        told.started(job, "f1")
        told.engine("ends", "f1", job)
        told.reported(job, "f1")
    assert len(told.history.records) > 10_000
    assert violations(told.history) == []
