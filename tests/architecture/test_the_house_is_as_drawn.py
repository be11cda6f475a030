"""The rules of the house and the tables of its documents, held against the code."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.domain.table import TABLE
from coordinator.http.app import make_app
from coordinator.store.port import PARTITION_KEYS
from runtime.settings import Flags, Timers
from schemas.errors import ERRORS
from schemas.manifest import _READERS
from tests.support.fleet import assembled_coordinator

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "tool",
    [
        ("-m", "ruff", "check", "."),
        ("-m", "ruff", "format", "--check", "."),
        ("-m", "mypy"),
        ("-m", "importlinter.cli", "lint"),
    ],
    ids=["linter", "formatter", "type checker", "who may import whom"],
)
def test_the_checkers_have_nothing_to_say(tool: tuple[str, ...]) -> None:
    if tool[1] == "importlinter.cli":
        argv = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    else:
        argv = [sys.executable, *tool]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_state_diagram_equals_the_table() -> None:
    drawn = set(re.findall(r"^    (\w+) --> (\w+): (\w+)$", ARCHITECTURE, re.MULTILINE))
    legal = {
        (str(stage), str(target), str(action)) for (stage, action), rule in TABLE.items() for target in rule.targets
    }
    assert drawn == legal


def test_the_table_of_timers_equals_the_defaults() -> None:
    written = {
        name: float(value) for name, value in re.findall(r"^\| (\w+_s) \| ([\d.]+) \|$", ARCHITECTURE, re.MULTILINE)
    }
    assert written == dataclasses.asdict(Timers())


def test_the_table_of_flags_equals_the_flags() -> None:
    written = set(re.findall(r"^\| `FLEET_(\w+)` ", ARCHITECTURE, re.MULTILINE))
    assert written == {field.name.upper() for field in dataclasses.fields(Flags)}


def test_the_readme_names_every_manifest_key() -> None:
    table = README.split("| key | meaning | default |")[1].split("\n\n")[0]
    named = {
        key for row in table.splitlines() for key in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    }
    assert named == set(_READERS)


def test_the_table_of_routes_equals_the_routes() -> None:
    made = assembled_coordinator()
    app = make_app(made.ctx, made.metrics)
    served = {(method.upper(), path) for path, item in app.openapi()["paths"].items() for method in item}
    assert set(re.findall(r"^\| ([A-Z]+) \| `(/[^`]*)` \|", API, re.MULTILINE)) == served


def test_the_table_of_errors_equals_the_registry() -> None:
    written = {code: int(status) for code, status in re.findall(r"^\| `(\w+)` \| (\d+) \|", API, re.MULTILINE)}
    assert written == {str(code): spec.status for code, spec in ERRORS.items()}


def test_every_container_is_partitioned_as_its_readers_expect() -> None:
    assert set(PARTITION_KEYS.values()) == {"productId", "jobId"}


def test_no_file_names_a_registry_or_a_path_of_a_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    hosts = re.compile("|".join(("pypi" + r"\.org", "python" + "hosted", "registry" + r"\.npmjs", "deb" + r"\.debian")))
    found = [
        name
        for name in listed
        if name and (ROOT / name).is_file() and hosts.search((ROOT / name).read_text(encoding="utf-8", errors="ignore"))
    ]
    assert found == []
