"""A coordinator that starts, cannot start, or waits for what it needs: each said in a sentence, none with a trace."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bus.server import BrokerConfig, NatsServer, create_nkey
from coordinator.main import listen_on
from runtime.settings import SettingsError
from tests.support.fleet import manifest
from tests.support.processes import free_port
from tests.support.service import Service, Tenants, serving, until

pytestmark = pytest.mark.xdist_group("commands")


@pytest.fixture
def tenants() -> Tenants:
    tenants = Tenants()
    tenants.product("shop", ["f1"])
    return tenants


@pytest.fixture
def ended() -> Iterator[list[Service]]:
    """Whatever is put in here is ended, however the test went."""
    services: list[Service] = []
    yield services
    for service in services:
        service.end()


def refusal(service: Service) -> str:
    """The one sentence with which it ended, as exit code 1."""
    service.launch()
    try:
        until(lambda: service.exit_code is not None, 30.0, "the end")
    finally:
        service.end()
    said = service.said()
    assert service.exit_code == 1, said
    assert "Traceback" not in said
    sentence = said.strip().splitlines()[-1]
    assert sentence.startswith("coordinator: "), said
    return sentence


def test_a_port_is_taken_from_the_first_moment_on() -> None:
    """Also before the store is open: of two that are started together one is told so at once."""
    first = listen_on("127.0.0.1:0")
    try:
        with pytest.raises(SettingsError, match="Address already in use"):
            listen_on(f"127.0.0.1:{first.getsockname()[1]}")
    finally:
        first.close()


def test_a_port_in_use_is_named(tmp_path: Path, tenants: Tenants) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        sentence = refusal(Service(tmp_path, tenants, "--listen", address))
    assert f"cannot listen on {address}: Address already in use; free it, or name another" in sentence


@pytest.mark.parametrize("address", ["8080", "localhost", "127.0.0.1:http", ":::", "127.0.0.1:99999"])
def test_an_address_that_makes_no_sense_is_named(tmp_path: Path, tenants: Tenants, address: str) -> None:
    assert repr(address)[1:-1] in refusal(Service(tmp_path, tenants, "--listen", address))


def test_a_data_directory_in_use_is_told_with_the_others_pid(tmp_path: Path, tenants: Tenants) -> None:
    (tmp_path / "other").mkdir()
    with serving(tmp_path, tenants) as first:
        second = Service(tmp_path / "other", tenants, "--data", str(first.data))
        assert f"{first.data} is in use by process {first.pid}" in refusal(second)
        assert first.operator("shop").submit(manifest())["stage"] == "queued"


def test_a_lock_of_a_killed_coordinator_holds_nobody_up(tmp_path: Path, tenants: Tenants) -> None:
    with serving(tmp_path, tenants) as service:
        service.kill()
        service.start()
        assert service.exit_code is None


def test_data_of_a_newer_version_is_left_alone(tmp_path: Path, tenants: Tenants) -> None:
    service = Service(tmp_path, tenants)
    service.data.mkdir()
    with sqlite3.connect(service.data / "fleet.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    sentence = refusal(service)
    assert "version 99, made by a newer release; this one knows up to 2" in sentence
    assert str(service.data / "fleet.db") in sentence


def test_data_that_is_no_store_is_named(tmp_path: Path, tenants: Tenants) -> None:
    service = Service(tmp_path, tenants)
    service.data.mkdir()
    (service.data / "fleet.db").write_bytes(b"certainly not a database" * 100)
    assert str(service.data / "fleet.db") in refusal(service)


def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path, tenants: Tenants) -> None:
    (tmp_path / "data").write_text("")
    assert f"{tmp_path / 'data'} cannot be used" in refusal(Service(tmp_path, tenants))


def test_the_memory_store_needs_to_be_meant(tmp_path: Path, tenants: Tenants) -> None:
    sentence = refusal(Service(tmp_path, tenants, "--store", "memory"))
    assert "loses everything at the end: say --ephemeral" in sentence
    with serving(tmp_path, tenants, "--store", "memory", "--ephemeral") as service:
        assert service.operator("shop").submit(manifest())["stage"] == "queued"


def test_enrolments_that_cannot_be_read_are_named(tmp_path: Path, tenants: Tenants) -> None:
    service = Service(tmp_path, tenants)
    file = tmp_path / "enrolments.json"
    file.unlink()
    assert f"the enrolments {file} cannot be read: No such file or directory" in refusal(service)
    file.write_text('{"operators": [{"id": "Ann", "productId": "shop", "tokenHash": "x"}]}')
    sentence = refusal(service)
    assert f"the enrolments {file} are not valid: operators.0.id" in sentence
    assert "Ann" in sentence
    file.write_text("{")
    assert "are not valid" in refusal(service)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lease-ttl", "3"], "must"),
        (["--bus-seed-file", "/nowhere/seed"], "/nowhere/seed"),
        (["--store", "cosmos"], "COSMOS_ENDPOINT and COSMOS_KEY"),
    ],
)
def test_a_setting_that_cannot_work_is_told(tmp_path: Path, tenants: Tenants, arguments: list[str], words: str) -> None:
    assert words in refusal(Service(tmp_path, tenants, *arguments))


def test_a_flag_that_is_neither_on_nor_off_is_told(tmp_path: Path, tenants: Tenants) -> None:
    sentence = refusal(Service(tmp_path, tenants, env={"FLEET_BUDGETS": "maybe"}))
    assert "FLEET_BUDGETS='maybe': write 1 or 0" in sentence


def test_a_store_that_is_not_there_yet_is_waited_for_and_said(
    tmp_path: Path, tenants: Tenants, ended: list[Service]
) -> None:
    """Nobody listens at the endpoint."""
    env = {"COSMOS_ENDPOINT": f"http://127.0.0.1:{free_port()}", "COSMOS_KEY": "c2VjcmV0"}
    service = Service(tmp_path, tenants, "--store", "cosmos", "--lease-ttl", "10", env=env)
    ended.append(service)
    service.launch()
    until(lambda: service.said().count("the store does not answer, trying again in") >= 2, 60.0, "two tries")
    assert env["COSMOS_ENDPOINT"] in service.said()
    assert "Traceback" not in service.said()
    assert "c2VjcmV0" not in service.said()
    assert service.exit_code is None
    service.terminate()
    assert "Traceback" not in service.said()


def test_a_bus_that_is_not_there_yet_is_said_and_used_when_it_comes(
    tmp_path: Path, tenants: Tenants, ended: list[Service]
) -> None:
    keys = create_nkey()
    (tmp_path / "seed").write_text(keys.seed + "\n")
    broker = NatsServer(tmp_path / "nats", BrokerConfig(keys.public, create_nkey().public))
    service = Service(tmp_path, tenants, "--bus-url", broker.url, "--bus-seed-file", str(tmp_path / "seed"))
    ended.append(service)
    try:
        service.start()
        assert "no bus: REST only until it is there" in service.said()
        assert readiness(service) == {"status": "degraded", "store": "ok", "bus": "unavailable: REST only"}
        operator = service.operator("shop")
        assert operator.submit(manifest())["stage"] == "queued"
        broker.start()
        until(lambda: readiness(service)["status"] == "ok", 20.0, "the bus")
        assert "the bus is there" in service.said()
        broker.kill()
        until(lambda: readiness(service)["status"] == "degraded", 20.0, "the loss of the bus")
        assert operator.submit(manifest(), "again")["stage"] == "queued"
        service.terminate()
        assert "Traceback" not in service.said()
    finally:
        broker.kill()


def readiness(service: Service) -> dict[str, str]:
    told: dict[str, str] = httpx.get(f"{service.url}/readyz", trust_env=False).json()
    return told


def test_sigterm_ends_it_cleanly_while_a_claim_waits_and_a_stream_is_open(tmp_path: Path, tenants: Tenants) -> None:
    with serving(tmp_path, tenants) as service:
        operator = service.operator("shop")
        job = operator.submit(manifest(capabilities="[gpu]"))
        claim = socket_of(service)
        body = '{"requestId":"r1","waitS":20,"engines":["shell"]}'
        claim.sendall(request(service, "POST", "/api/fleet/claim", tenants.factories["f1"], body))
        stream = socket_of(service)
        path = f"/api/fleet/jobs/{job['id']}/events/stream"
        stream.sendall(request(service, "GET", path, tenants.operators["shop"]))
        assert b"event: mode" in received(stream)
        try:
            service.terminate(within_s=15.0)
        finally:
            claim.close()
            stream.close()
        assert "Traceback" not in service.said(), service.said()
        service.start()
        assert service.operator("shop").job(job["id"])["stage"] == "queued"


def test_sigterm_closes_the_store_in_order(tmp_path: Path, tenants: Tenants) -> None:
    """A store that is closed leaves no write-ahead log behind."""
    with serving(tmp_path, tenants) as service:
        service.operator("shop").submit(manifest())
        assert (service.data / "fleet.db-wal").exists()
        assert service.terminate() == 0
        assert not (service.data / "fleet.db-wal").exists()


def test_a_client_that_hung_up_while_it_waited_takes_no_job(tmp_path: Path, tenants: Tenants) -> None:
    with serving(tmp_path, tenants) as service:
        operator = service.operator("shop")
        claim = socket_of(service)
        body = '{"requestId":"r1","waitS":20,"engines":["shell"]}'
        claim.sendall(request(service, "POST", "/api/fleet/claim", tenants.factories["f1"], body))
        connections = operator.http.get("/metrics")  # answered after the claim was begun
        assert connections.is_success
        claim.close()
        probe = operator.submit(manifest(), "probe")
        with service.client(tenants.factories["f1"]) as factory:
            answer = factory.post("/api/fleet/claim", json={"requestId": "r2", "engines": ["shell"]}).json()
        assert [grant["jobId"] for grant in answer["grants"]] == [probe["id"]]
        claims = [event for event in operator.history(probe["id"]) if event["type"] == "claimed"]
        assert [event["data"]["requestId"] for event in claims] == ["r2"]


def test_a_body_without_end_is_broken_off(tmp_path: Path, tenants: Tenants) -> None:
    with serving(tmp_path, tenants) as service, socket_of(service) as client:
        head = request(service, "POST", "/api/fleet/jobs/batch", tenants.operators["shop"], None)
        client.sendall(head.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"))
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        answer = b""
        try:
            for _ in range(2000):
                client.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            pytest.fail("128 MB were taken")
        try:
            answer = received(client)
        except ConnectionResetError:
            return  # the answer may be lost with the connection
        assert b" 413 " in answer


def socket_of(service: Service) -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10.0)


def request(service: Service, method: str, path: str, token: str, body: str | None = "") -> bytes:
    length = "" if body is None else f"Content-Length: {len(body)}\r\n"
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {service.url.removeprefix('http://')}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n{length}\r\n"
    )
    return (head + (body or "")).encode()


def received(client: socket.socket) -> bytes:
    """What comes until the first event, or the end."""
    data = b""
    while b"event: " not in data and (more := client.recv(65536)):
        data += more
    return data
