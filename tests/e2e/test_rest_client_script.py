"""`deploy/examples/fleet-client.sh` against a real coordinator: a factory that is a shell script over REST."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.fleet import manifest
from tests.support.service import PLAIN_ENV, Operator, Service, Tenants, serving, until

pytestmark = pytest.mark.xdist_group("processes")

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "examples" / "fleet-client.sh"
REFUSED, UNREACHABLE, NOTHING, STOPPED, FENCED = 1, 3, 4, 5, 9
PRODUCTS = [f"p{number}" for number in range(40)]  # one for each test, so that none claims another's job
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NASTY_BODY = (
    'say "hi" \\ and \\n \\\\"x\\" \t tab\r\n"leaseEpoch":99,\x02\x1b[1m {"jobId":"fake"}\nÄ€😀 $(id) `id` %s\n'
)


@dataclass
class Script:
    """The script in a directory of its own."""

    directory: Path
    api: str
    token: str

    def env(self, **more: str) -> dict[str, str]:
        return {**PLAIN_ENV, "AQ_FLEET_API": self.api, "AQ_FLEET_TOKEN": self.token, "AQ_FLEET_RETRY_S": "0.1", **more}

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(SCRIPT), *arguments],
            cwd=self.directory,
            env=self.env(**env),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def begin(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", str(SCRIPT), *arguments],
            cwd=self.directory,
            env=self.env(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ok(self, *arguments: str, **env: str) -> str:
        done = self(*arguments, **env)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout.strip()

    def grant(self) -> dict[str, Any]:
        grant: dict[str, Any] = orjson.loads((self.directory / ".fleet-client/grant.json").read_bytes())["grants"][0]
        return grant


def all_tenants() -> Tenants:
    tenants = Tenants()
    for name in PRODUCTS:
        tenants.product(name, [f"{name}-f"], ["python"])
    return tenants


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("c"), all_tenants()) as service:
        yield service


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Terms live 6 s without a renewal."""
    with serving(tmp_path_factory.mktemp("hasty"), all_tenants(), "--lease-ttl", "6") as service:
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


@pytest.fixture
def hasty_script(hasty: Service, product: str, tmp_path: Path) -> Script:
    return Script(tmp_path, hasty.url, hasty.tenants.factories[f"{product}-f"])


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
    body = "".join(f'{number}: "quoted" and back\\slash\n' for number in range(6000))
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
    assert (script.directory / "body.txt").read_text() == "do it\n"


def test_run_does_a_job_from_claim_to_report(script: Script, operator: Operator) -> None:
    job = operator.submit(manifest(repo="https://git.example/x", ref="main"))
    command = 'cat; echo " $FLEET_JOB_ID $FLEET_LEASE_EPOCH $FLEET_REPO $FLEET_REF $FLEET_CHECKPOINT."'
    lines = script.ok("run", "--", "sh", "-c", command).splitlines()
    assert lines == [f"{job['id']} 1", "do it", f" {job['id']} 1 https://git.example/x main .", "review"]
    assert operator.job(job["id"])["result"]["outcome"] == "ok"


def test_run_reports_a_command_that_fails(script: Script, operator: Operator) -> None:
    job = operator.submit(manifest(retries=0))
    script.ok("run", "--", "sh", "-c", "exit 7")
    result = operator.job(job["id"])["result"]
    assert (result["outcome"], result["summary"]) == ("engine_failed", "the command ended with 7")


def test_run_verifies_and_sends_the_evidence(script: Script, operator: Operator) -> None:
    commands = ["printf 'a\\tb \"c\" \\303\\244\\n'", "test -f made"]
    job = operator.submit(manifest(verify=orjson.dumps(commands).decode()))
    script.ok("run", "--", "sh", "-c", ": >made")
    now = operator.job(job["id"])
    assert now["stage"] == "shipped"
    evidence = now["result"]["verify"]
    assert [one["command"] for one in evidence] == commands
    assert [(one["rc"], one["tail"]) for one in evidence] == [(0, 'a\tb "c" ??'), (0, "")]


def test_run_reports_work_that_fails_its_verification(script: Script, operator: Operator) -> None:
    job = operator.submit(manifest(verify='["seq 1 30; exit 3", "true"]', retries=0))
    script.ok("run", "--", "true")
    result = operator.job(job["id"])["result"]
    assert result["outcome"] == "verify_failed"
    (evidence,) = result["verify"]
    assert evidence["rc"] == 3
    assert evidence["tail"].split() == [str(number) for number in range(11, 31)]


def test_run_renews_for_as_long_as_the_command_takes(hasty_script: Script, hasty: Service, product: str) -> None:
    operator = hasty.operator(product)
    job = operator.submit(manifest())
    go_on = hasty_script.directory / "go-on"
    run = hasty_script.begin("run", "--", "sh", "-c", f"while [ ! -f {shlex.quote(str(go_on))} ]; do sleep 0.1; done")
    until(lambda: operator.job(job["id"])["stage"] == "building")
    reaped_at_s = time.monotonic() + 9.5  # 6 s of lease, 2 s of skew, and more than one round of the reaper

    def outlived_its_first_lease() -> bool:
        assert operator.job(job["id"])["stage"] == "building"
        return time.monotonic() > reaped_at_s

    until(outlived_its_first_lease)
    go_on.touch()
    out, errors = run.communicate(timeout=20)
    assert run.returncode == 0, errors
    assert out.splitlines()[-1] == "review"
    assert operator.job(job["id"])["leaseEpoch"] == 1


def test_run_stops_the_command_on_a_cancel_and_releases(hasty_script: Script, hasty: Service, product: str) -> None:
    operator = hasty.operator(product)
    job = operator.submit(manifest())
    beats = hasty_script.directory / "beats"
    run = hasty_script.begin(
        "run", "--", "sh", "-c", f"while :; do echo x >>{shlex.quote(str(beats))}; sleep 0.05; done"
    )
    until(beats.exists)
    assert operator.act(job["id"], "cancel", reason="no more").is_success
    _, errors = run.communicate(timeout=20)
    assert run.returncode == STOPPED, errors
    now = operator.job(job["id"])
    assert (now["stage"], now["result"]["outcome"]) == ("failed", "cancelled")
    assert quiet(beats), "the command goes on"


def beating(beats: Path) -> str:
    return f"while :; do echo x >>{shlex.quote(str(beats))}; sleep 0.05; done"


def quiet(beats: Path) -> bool:
    """Whether nobody writes any more, for four times as long as the writer pauses."""
    size = beats.stat().st_size
    try:
        until(lambda: beats.stat().st_size != size, within_s=0.2)
    except AssertionError:
        return True
    return False


def test_a_client_that_was_reaped_is_fenced_and_the_job_goes_on(
    hasty_script: Script, hasty: Service, product: str
) -> None:
    operator = hasty.operator(product)
    job = operator.submit(manifest())
    hasty_script.ok("claim")
    hasty_script.ok("start")
    until(lambda: operator.job(job["id"])["stage"] == "queued", 30)
    for command in (["renew"], ["checkpoint", "refs/x", COMMIT, "1"], ["report", "ok"], ["release"], ["start"]):
        done = hasty_script(*command)
        assert done.returncode == FENCED, (command, done.stderr)
    now = operator.job(job["id"])
    assert (now["stage"], now["result"]["outcome"], now["leaseEpoch"]) == ("queued", "lost", 2)
    assert hasty_script.ok("claim") == f"{job['id']} 2"


def test_run_stops_the_command_when_nobody_answers_its_renewals(tmp_path: Path) -> None:
    """The coordinator is gone: the command is ended before the lease is, and the release is tried until it is back."""
    tenants = Tenants()
    tenants.product("solo", ["solo-f"])
    with serving(tmp_path, tenants, "--lease-ttl", "6") as service:
        operator = service.operator("solo")
        operator.submit(manifest())
        script = Script(tmp_path, service.url, tenants.factories["solo-f"])
        beats = tmp_path / "beats"
        run = script.begin("run", "--", "sh", "-c", beating(beats))
        until(beats.exists)
        service.kill()
        until((tmp_path / ".fleet-client/why").exists, 15)
        assert (tmp_path / ".fleet-client/why").read_text() == "unheard\n"
        until(lambda: quiet(beats), 10)
        service.start()
        _, errors = run.communicate(timeout=30)
        assert run.returncode in (STOPPED, FENCED), errors
