"""Where the command line finds the fleet, and what it makes of answers that are none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from console.cli import doctor
from console.client import Client, CoordinatorUnreachable, Target, find_target
from schemas.errors import FleetError

pytestmark = pytest.mark.xdist_group("processes")


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("AQ_FLEET_API", "AQ_FLEET_TOKEN", "AQ_PRODUCT_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def left_by_up(directory: Path) -> None:
    (directory / ".gigafactory").mkdir()
    (directory / "token").write_text("left\n")
    (directory / ".gigafactory/client.json").write_text(
        f'{{"url": "http://left:1/", "tokenFile": "{directory / "token"}", "productId": "main"}}'
    )


def test_what_up_left_is_found(nowhere: Path) -> None:
    left_by_up(nowhere)
    assert find_target(None, None, None) == Target("http://left:1", "left", "main")


def test_the_environment_is_stronger_and_an_option_strongest(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_by_up(nowhere)
    monkeypatch.setenv("AQ_FLEET_API", "http://env:2")
    monkeypatch.setenv("AQ_FLEET_TOKEN", "env")
    monkeypatch.setenv("AQ_PRODUCT_ID", "shop")
    assert find_target(None, None, None) == Target("http://env:2", "env", "shop")
    (nowhere / "mine").write_text(" mine \n")
    assert find_target("http://mine:3", nowhere / "mine", "bank") == Target("http://mine:3", "mine", "bank")


def test_no_token_is_told_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"give --token-file, set AQ_FLEET_TOKEN, or run where `gigafactory up` runs"):
        find_target(None, None, None)


def test_a_token_file_or_what_up_left_that_cannot_be_read_is_named(nowhere: Path) -> None:
    with pytest.raises(ValueError, match=r"missing cannot be read: No such file"):
        find_target(None, nowhere / "missing", None)
    (nowhere / ".gigafactory").mkdir()
    for broken in ("{", "[1]", '"x"'):
        (nowhere / ".gigafactory/client.json").write_text(broken)
        with pytest.raises(ValueError, match=r"client\.json cannot be read"):
            find_target(None, None, None)


def test_a_token_is_not_shown_with_the_target() -> None:
    assert "secret" not in repr(Target("http://x", "secret", None))


def test_an_address_that_makes_no_sense_is_told() -> None:
    with pytest.raises(ValueError, match="write http://HOST:PORT"):
        Client(Target("http://x:port", "t", None))


@pytest.mark.parametrize("url", ["http://[", "http://x:99999999", "localhost:1", "ftp://x"])
def test_an_address_that_cannot_be_asked_is_unreachable(url: str) -> None:
    client = Client(Target(url, "t", None))
    with pytest.raises(CoordinatorUnreachable, match="no answer from"):
        client.get("/x")
    client.close()


@contextmanager
def answering(status: int, body: bytes, kind: str = "application/json") -> Iterator[str]:
    """Something that is no coordinator."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>"),
        (200, b"7"),
        (404, b"<html>"),
        (500, b"{}"),
        (502, b'{"code": "odd", "detail": "x"}'),
        (403, b"[]"),
    ],
)
def test_an_answer_that_no_coordinator_gives_is_told_as_such(status: int, body: bytes) -> None:
    with answering(status, body) as url:
        client = Client(Target(url, "t", None))
        with pytest.raises(CoordinatorUnreachable, match=url):
            client.get("/x")
        client.close()


def test_a_refusal_is_had_with_its_detail_whatever_its_names() -> None:
    body = b'{"code": "conflict", "detail": "no", "extra": {"code": 1, "message": 2, "self": 3}}'
    with answering(409, body) as url:
        client = Client(Target(url, "t", None))
        with pytest.raises(FleetError, match="no") as refused:
            client.get("/x")
        client.close()
    assert refused.value.detail == {"code": 1, "message": 2, "self": 3}


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b"7"])
def test_the_doctor_knows_a_coordinator_from_something_else(body: bytes) -> None:
    with answering(200, body) as url:
        (finding,) = doctor.reachable(url)
    assert (finding.what, finding.ok) == ("coordinator", False)
    assert "no coordinator does" in finding.says


def test_the_doctor_tells_of_trees_that_are_kept(tmp_path: Path) -> None:
    tree = tmp_path / "factories/f1/work/quarantine/j1/3"
    tree.mkdir(parents=True)
    (finding,) = doctor.kept_trees(tmp_path)
    assert (finding.what, finding.ok) == ("kept", None)
    assert f"rm -rf {tree}" in finding.says
    (tree / "tree").mkdir()
    (tree / "kept.json").write_text('{"why": "not saved: x", "at": "2030-01-01T00:00:00+00:00"}')
    (finding,) = doctor.kept_trees(tmp_path)
    says = f"job j1, term 3 on f1, since 2030-01-01T00:00:00+00:00: not saved: x. Look: git -C {tree}/tree status."
    assert finding.says == f"{says} Done with it: rm -rf {tree}"


def test_the_doctor_looks_for_what_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    found = {finding.what: finding.ok for finding in doctor.installed()}
    assert found == {
        "python": True, "git": False, "sh": False, "nats-server": None, "claude": None, "codex": None, "devin": None,
    }  # fmt: skip
