"""`fleet-client.sh run`: a command as an engine, kept within its term; and what becomes of a client that was reaped."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.support.client_script import COMMIT, FENCED, PRODUCTS, STOPPED, Script, all_tenants
from tests.support.fleet import BODY, manifest
from tests.support.service import Operator, Service, Tenants, serving, until

pytestmark = pytest.mark.xdist_group("commands")


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


def test_run_does_a_job_from_claim_to_report(script: Script, operator: Operator) -> None:
    job = operator.submit(manifest(repo="https://git.example/x", ref="main"))
    command = 'cat; echo " $FLEET_JOB_ID $FLEET_LEASE_EPOCH $FLEET_REPO $FLEET_REF $FLEET_CHECKPOINT."'
    lines = script.ok("run", "--", "sh", "-c", command).splitlines()
    assert lines == [f"{job['id']} 1", *BODY.splitlines(), f" {job['id']} 1 https://git.example/x main .", "review"]
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


def test_run_that_is_ended_from_outside_ends_the_command_and_gives_the_job_back(
    script: Script, operator: Operator
) -> None:
    job = operator.submit(manifest())
    beats = script.directory / "beats"
    run = script.begin("run", "--", "sh", "-c", beating(beats))
    until(beats.exists)
    run.terminate()
    _, errors = run.communicate(timeout=20)
    assert run.returncode == STOPPED, errors
    now = operator.job(job["id"])
    assert (now["stage"], now["result"]["summary"]) == ("queued", "interrupted")
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


def test_run_stops_the_command_once_its_term_is_over(hasty_script: Script, hasty: Service, product: str) -> None:
    """Somebody else ends the term with the same token; the next renewal is answered with 409."""
    operator = hasty.operator(product)
    job = operator.submit(manifest())
    beats = hasty_script.directory / "beats"
    run = hasty_script.begin("run", "--", "sh", "-c", beating(beats))
    until(beats.exists)
    client = hasty.client(hasty_script.token, product)
    assert client.post(f"/api/fleet/jobs/{job['id']}/lease/release", json={"leaseEpoch": 1}).is_success
    _, errors = run.communicate(timeout=20)
    assert run.returncode == FENCED, errors
    assert "fenced (HTTP 409)" in errors
    assert quiet(beats), "the command goes on"
    assert operator.job(job["id"])["stage"] == "queued"


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
