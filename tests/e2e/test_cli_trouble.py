"""`gigafactory doctor`, and what every command says and returns when something is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleet import manifest
from tests.support.processes import free_port
from tests.support.service import Service, Tenants, serving
from tests.support.shell import REFUSED, UNREACHABLE, USAGE, Shell

pytestmark = pytest.mark.xdist_group("commands")

PRODUCT = "shop"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    tenants = Tenants()
    tenants.product(PRODUCT)
    tenants.product("bank")
    with serving(tmp_path_factory.mktemp("c"), tenants) as service:
        yield service


@pytest.fixture
def shell(service: Service, tmp_path: Path) -> Shell:
    return Shell(tmp_path, service.url, service.tenants.operators[PRODUCT], PRODUCT)


def test_the_doctor_finds_everything_well(shell: Shell) -> None:
    found = {one["what"]: one for one in shell.json("doctor")}
    assert {name for name, one in found.items() if one["ok"]} >= {
        "python",
        "git",
        "sh",
        "token",
        "coordinator",
        "store",
    }
    assert found["bus"] == {"what": "bus", "ok": None, "says": "unavailable: REST only"}
    assert "ok       coordinator" in shell.ok("doctor")


def test_the_doctor_tells_a_token_that_nobody_knows(shell: Shell) -> None:
    shell.token = shell.token[:-4] + "0000"
    done = shell("doctor")
    assert done.returncode == REFUSED
    assert "MISSING  token        unauthorized" in done.stdout


def test_the_doctor_without_a_coordinator_says_how_to_start_one(shell: Shell) -> None:
    shell.url = f"http://127.0.0.1:{free_port()}"
    done = shell("doctor")
    assert done.returncode == REFUSED
    assert f"MISSING  coordinator  {shell.url}" in done.stdout
    assert "start one with `gigafactory up`" in done.stdout


def test_the_doctor_without_a_token_looks_where_the_environment_says(shell: Shell) -> None:
    shell.token = ""
    done = shell("doctor")
    assert done.returncode == REFUSED
    assert "MISSING  token" in done.stdout
    assert f"ok       coordinator  {shell.url}" in done.stdout


COMMANDS = [
    ["jobs"],
    ["job", "j1"],
    ["events", "j1"],
    ["logs", "j1"],
    ["logs", "j1", "-f"],
    ["explain", "j1"],
    ["factories"],
    ["ship", "j1"],
    ["requeue", "j1"],
    ["reject", "j1"],
    ["cancel", "j1"],
    ["approve", "j1"],
    ["submit", "-"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_a_coordinator_each_command_says_so_with_exit_code_3(shell: Shell, command: list[str]) -> None:
    shell.url = f"http://127.0.0.1:{free_port()}"
    done = shell(*command, stdin=manifest())
    assert done.returncode == UNREACHABLE, done.stderr
    assert shell.url in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["frobnicate"], "frobnicate"),
        (["jobs", "--limit", "0"], "limit"),
        (["job"], "ID"),
        (["submit"], "FILE"),
        (["submit", "missing.md"], "missing.md: No such file"),
        (["submit", "empty"], "empty: the folder has no *.md"),
        (["submit", "a.md", "b.md", "--key", "k"], "--key is for one manifest"),
        (["--token-file", "missing", "jobs"], "missing cannot be read"),
        (["--url", "http://x:port", "jobs"], "write http://HOST:PORT"),
    ],
)
def test_wrong_usage_is_told_with_exit_code_2(shell: Shell, command: list[str], words: str) -> None:
    (shell.directory / "empty").mkdir()
    shell.write("a.md", manifest())
    shell.write("b.md", manifest())
    done = shell(*command)
    assert done.returncode == USAGE, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_token_and_a_foreign_product_are_refused(shell: Shell) -> None:
    foreign = shell("--product", "bank", "jobs")
    assert foreign.returncode == REFUSED
    assert "forbidden: this token is not for product" in foreign.stderr
    shell.token = "nonsense"
    wrong = shell("jobs")
    assert wrong.returncode == REFUSED
    assert "unauthorized: send 'Authorization: Bearer TOKEN'" in wrong.stderr
    assert "nonsense" not in wrong.stderr


def test_a_wrong_stage_is_refused_with_the_right_ones(shell: Shell) -> None:
    done = shell("jobs", "--stage", "sold")
    assert done.returncode == REFUSED
    assert "'queued', 'blocked'" in done.stderr


def test_help_names_every_command_and_exit_code(shell: Shell) -> None:
    text = shell.ok("--help")
    for command in (*{one[0] for one in COMMANDS}, "doctor", "up", "coordinator", "factory"):
        assert f" {command} " in text
    assert "3 no coordinator answered" in " ".join(text.split())
