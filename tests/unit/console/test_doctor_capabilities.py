"""The doctor tells what this machine has, and which of it the factories that live here may not offer."""

from __future__ import annotations

from pathlib import Path

import orjson

from console.cli import doctor
from console.client import Target
from tests.unit.console.test_client import answering


def test_the_doctor_lists_what_is_found_and_what_of_it_a_factory_of_this_machine_is_not_enrolled_for(
    tmp_path: Path,
) -> None:
    (tmp_path / "factories" / "f1").mkdir(parents=True)
    known = [
        {"id": "f1", "enrolledCapabilities": ["git", "gpu"], "capabilities": ["gpu"]},
        {"id": "elsewhere", "enrolledCapabilities": [], "capabilities": []},
    ]
    with answering(200, orjson.dumps({"factories": known})) as url:
        found, one = doctor.capabilities(Target(url, "t", None), tmp_path)
    assert (found.what, found.ok) == ("capabilities", None)
    assert "git" in found.says.split(", ")
    assert (one.what, one.ok) == ("f1", None)
    offers, beyond = one.says.split("; ")
    assert offers == "offers gpu"
    assert beyond.startswith("not enrolled for ")
    assert "git" not in beyond.removeprefix("not enrolled for ").split(", ")
    assert any(name.startswith("os-") for name in beyond.removeprefix("not enrolled for ").split(", "))


def test_the_doctor_lists_what_is_found_where_no_coordinator_answers(tmp_path: Path) -> None:
    (tmp_path / "factories" / "f1").mkdir(parents=True)
    for target in (None, Target("http://127.0.0.1:9", "t", None)):
        (found,) = doctor.capabilities(target, tmp_path)
        assert "git" in found.says
