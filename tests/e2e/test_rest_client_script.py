"""`deploy/examples/fleet-client.sh` against a real coordinator: a factory that is a shell script over REST."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client_script import (
    COMMIT,
    FENCED,
    NOTHING,
    PRODUCTS,
    REFUSED,
    SCRIPT,
    STOPPED,
    UNREACHABLE,
    Script,
    all_tenants,
)
from tests.support.fleet import BODY, SHELL_BLOCK, manifest
from tests.support.service import Operator, Service, serving, until

pytestmark = pytest.mark.xdist_group("commands")

NASTY_BODY = (
    'say "hi" \\ and \\n \\\\"x\\" \t tab\r\n"leaseEpoch":99,\x02\x1b[1m {"jobId":"fake"}\nÄ€😀 $(id) `id` %s\n'
    f"{SHELL_BLOCK}"
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("c"), all_tenants()) as service:
        yield service


unused = iter(PRODUCTS)


@pytest.fixture
def product() -> str:
    return next(unused)


@pytest.fixture
def operator(service: Service, product: str) -> Operator:
    return service.operator(product)


@pytest.fixture
def script(service: Service, product: str, tmp_path: Path) -> Script:
    return Script(tmp_path, service.url, service.tenants.factories[f"{product}-f"])


def test_a_job_goes_from_claim_to_report_by_the_script_alone(script: Script, operator: Operator) -> None:
    job = operator.submit(manifest())
    assert script.ok("claim") == f"{job['id']} 1"
    assert script.grant()["jobId"] == job["id"]
    assert script.ok("start").startswith("building ")
    assert script.ok("renew").startswith("building ")
    assert script.ok("checkpoint", f"refs/gigafactory/{job['id']}/1", COMMIT, "1").startswith("building ")
    assert script.ok("report", "ok", "all done") == "review"
    now = operator.job(job["id"])
    assert (now["stage"], now["checkpoint"]["commit"], now["result"]["summary"]) == ("review", COMMIT, "all done")
    types = [event["type"] for event in operator.history(job["id"])]
    assert types == ["submitted", "claimed", "started", "checkpointed", "reported"]


def test_a_repeated_report_is_answered_as_before_and_done_once(script: Script, operator: Operator) -> None:
    job = operator.submit(manifest())
    script.ok("claim")
    assert script.ok("report", "ok", "once") == "review"
    assert script.ok("report", "ok", "once") == "review"
    assert [event["type"] for event in operator.history(job["id"])].count("reported") == 1


def test_a_job_is_given_back_by_a_release_with_its_reason(script: Script, operator: Operator) -> None:
    job = operator.submit(manifest())
    script.ok("claim")
    script.ok("start")
    assert script.ok("release", 'going "home"\nnow') == "queued"
    assert operator.job(job["id"])["result"]["summary"] == 'going "home"\nnow'
    assert script.ok("claim") == f"{job['id']} 2"


def test_nothing_to_claim_is_an_exit_code_of_its_own(script: Script) -> None:
    done = script("claim")
    assert (done.returncode, done.stdout) == (NOTHING, "")


def test_a_waiting_claim_gets_the_job_that_is_submitted_meanwhile(script: Script, operator: Operator) -> None:
    claim = script.begin("claim", "--wait", "20")
    until(lambda: (script.directory / ".fleet-client/request").exists())
    job = operator.submit(manifest())
    out, errors = claim.communicate(timeout=15)
    assert (claim.returncode, out.strip()) == (0, f"{job['id']} 1"), errors


def test_a_claim_that_was_not_answered_is_asked_again_under_its_request_id(
    script: Script, operator: Operator, service: Service
) -> None:
    """Its answer is thrown away, as if the line had broken: the second try gets the same grant."""
    job = operator.submit(manifest())
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    assert script("claim", AQ_FLEET_API=nowhere).returncode == UNREACHABLE
    request_id = (script.directory / ".fleet-client/request").read_text().strip()
    body = {"requestId": request_id, "engines": ["shell"], "max": 1}
    (grant,) = service.client(script.token).post("/api/fleet/claim", json=body).json()["grants"]
    operator.submit(manifest(), "another")
    assert script.ok("claim") == f"{job['id']} {grant['leaseEpoch']}"
    assert not (script.directory / ".fleet-client/request").exists()


def test_a_held_job_is_not_forgotten_over_another_claim(script: Script, operator: Operator) -> None:
    job = operator.submit(manifest())
    script.ok("claim")
    done = script("claim")
    assert done.returncode == REFUSED
    assert f"term 1 of {job['id']} is held" in done.stderr


def test_the_body_comes_out_as_it_was_written(script: Script, operator: Operator) -> None:
    operator.submit(manifest(NASTY_BODY))
    script.ok("claim")
    done = subprocess.run(
        ["sh", str(SCRIPT), "body"], cwd=script.directory, env=script.env(), capture_output=True, check=True
    )
    assert done.stdout == NASTY_BODY.encode()


def test_a_large_body_comes_out_whole(script: Script, operator: Operator) -> None:
    body = SHELL_BLOCK + "".join(f'{number}: "quoted" and back\\slash\n' for number in range(6000))
    operator.submit(manifest(body))
    script.ok("claim")
    assert script("body").stdout == body


def test_a_wrong_token_is_refused_with_the_reason(script: Script) -> None:
    script.token = script.token[:-1] + ("0" if script.token[-1] != "0" else "1")
    done = script("claim")
    assert done.returncode == REFUSED
    assert "unauthorized (HTTP 401): send 'Authorization: Bearer TOKEN'" in done.stderr
    assert not (script.directory / ".fleet-client/request").exists()


def test_another_factorys_term_is_fenced(script: Script, operator: Operator, service: Service) -> None:
    job = operator.submit(manifest())
    script.ok("claim")
    state = script.directory / ".fleet-client/grant.json"
    state.write_bytes(state.read_bytes().replace(b'"leaseEpoch":1', b'"leaseEpoch":7', 1))
    done = script("renew")
    assert done.returncode == FENCED
    assert "fenced (HTTP 409)" in done.stderr
    assert operator.job(job["id"])["holder"] is not None


def test_no_coordinator_is_an_exit_code_of_its_own(script: Script, operator: Operator) -> None:
    operator.submit(manifest())
    script.ok("claim")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        done = script("renew", AQ_FLEET_API=f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert done.returncode == UNREACHABLE
    assert "no answer from" in done.stderr
    assert script.ok("report", "ok") == "review"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["frobnicate"], "'frobnicate' is no command"),
        (["claim", "--wait", "soon"], "--wait takes a number"),
        (["run", "true"], "write -- before the command"),
        (["run", "--"], "which command?"),
        (["start"], "no job is held here"),
    ],
)
def test_wrong_usage_is_told(script: Script, arguments: list[str], sentence: str) -> None:
    done = script(*arguments)
    assert done.returncode == REFUSED
    assert sentence in done.stderr


def test_missing_settings_are_told(script: Script) -> None:
    assert "AQ_FLEET_TOKEN is not set" in script("claim", AQ_FLEET_TOKEN="").stderr


def test_help_tells_every_command_and_exit_code(script: Script) -> None:
    text = script.ok("help")
    for word in ("claim", "start", "renew", "checkpoint", "report", "release", "body", "run"):
        assert f"\n  {word} " in text
    for code in (0, REFUSED, UNREACHABLE, NOTHING, STOPPED, FENCED):
        assert f"\n  {code}  " in text


def test_the_token_is_in_no_list_of_processes_and_the_state_is_private(script: Script, operator: Operator) -> None:
    operator.submit(manifest())
    script.ok("claim")
    assert "--config -" in SCRIPT.read_text()
    state = script.directory / ".fleet-client"
    assert {path.stat().st_mode & 0o077 for path in [state, *state.iterdir()]} == {0}
    assert all(script.token not in path.read_text() for path in state.iterdir())


def test_the_script_needs_only_curl_and_sed_beside_a_plain_system(script: Script, operator: Operator) -> None:
    tools = script.directory / "bin"
    tools.mkdir()
    for name in ("sh", "curl", "sed", "cat", "date", "mv", "od", "rm", "sleep", "mkdir"):
        found = next(Path(folder) / name for folder in os.environ["PATH"].split(":") if (Path(folder) / name).exists())
        (tools / name).symlink_to(found)
    job = operator.submit(manifest(verify="true"))
    script.ok("run", "--", "sh", "-c", "cat >body.txt", PATH=str(tools))
    assert operator.job(job["id"])["stage"] == "shipped"
    assert (script.directory / "body.txt").read_text() == BODY
