"""A call of git ends with all that it started, asks nobody, and tells what was said. Real processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from factory.git.environment import factory_env
from factory.git.run import GitError, git, run
from factory.git.urls import reach_of, without_passwords
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("git")

# A child leaves the group, ignores what it is asked, and holds every pipe.
LEAVES = (
    "setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > {pids}; while :; do sleep 1; done' & echo $$ >> {pids}.top; {then}"
)


def script(tmp_path: Path, then: str) -> list[str]:
    return ["sh", "-c", LEAVES.format(pids=tmp_path / "pid", then=then)]


def living(tmp_path: Path) -> list[int]:
    pids = [int(path.read_text()) for path in (tmp_path / "pid", tmp_path / "pid.top")]
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def is_started(tmp_path: Path) -> bool:
    notes = [tmp_path / name for name in ("pid", "pid.top")]
    return all(note.exists() and note.read_text().endswith("\n") for note in notes)


async def test_a_cancelled_call_leaves_nothing_running(tmp_path: Path) -> None:
    running = asyncio.create_task(run(script(tmp_path, "sleep 600"), cwd=tmp_path, env=factory_env()))
    await eventually(lambda: is_started(tmp_path))
    assert len(living(tmp_path)) == 2
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert living(tmp_path) == []


async def test_a_silent_call_is_ended_and_one_that_says_something_is_not(tmp_path: Path) -> None:
    with pytest.raises(GitError, match="no sign of life for 1 s"):
        await run(script(tmp_path, "sleep 600"), cwd=tmp_path, env=factory_env(), silence_s=1.0)
    assert living(tmp_path) == []
    heard: list[str] = []
    talks = ["sh", "-c", 'for n in 1 2 3 4 5 6; do echo "at $n %" >&2; sleep 0.4; done; echo done']
    said = await run(talks, cwd=tmp_path, env=factory_env(), silence_s=1.2, progress=heard.append)
    assert said == b"done\n"
    assert heard
    assert heard[0].startswith("at ")


async def test_what_outlives_a_call_that_ended_well_delays_nothing(tmp_path: Path) -> None:
    """Such as a cache of credentials: it is the machine's."""
    said = await asyncio.wait_for(run(script(tmp_path, "echo done"), cwd=tmp_path, env=factory_env()), 30)
    assert said == b"done\n"
    await eventually(lambda: is_started(tmp_path))
    for pid in living(tmp_path):
        psutil.Process(pid).kill()


async def test_an_error_is_told_whole_and_without_hints_and_passwords(tmp_path: Path) -> None:
    says = (
        "echo 'Cloning into x...' >&2; echo 'remote: no entry for you' >&2; echo 'hint: try again' >&2; "
        "echo 'fatal: unable to access https://ann:hunter2@host/x: 401' >&2; exit 128"
    )
    with pytest.raises(GitError) as error:
        await run(["sh", "-c", says], cwd=tmp_path, env=factory_env())
    assert "remote: no entry for you\nfatal: unable to access https://host/x: 401" in str(error.value)
    assert "hunter2" not in str(error.value)
    assert "hint" not in str(error.value)


async def test_git_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = tmp_path / "ask"
    ask.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\nsleep 60\n")
    ask.chmod(0o755)
    for name, value in {
        "SSH_ASKPASS": str(ask), "GIT_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":99",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 401 no\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(GitError, match="could not read Username"):
            await asyncio.wait_for(git(tmp_path, "ls-remote", f"http://127.0.0.1:{port}/x.git"), 30)
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("url", "clean", "secrets"),
    [
        ("https://ann:h%40nter@host:8443/x.git?y=1", "https://host:8443/x.git?y=1", ("ann", "h@nter")),
        ("http://token@host/x", "http://host/x", ("token", "")),
        ("https://host/x", "https://host/x", ()),
        ("ssh://git@host/x", "ssh://git@host/x", ()),
        ("git@host:x.git", "git@host:x.git", ()),
        ("/srv/a@b/x.git", "/srv/a@b/x.git", ()),
    ],
)
def test_a_password_is_cut_off_a_url_and_given_to_git_beside_it(url: str, clean: str, secrets: tuple[str, ...]) -> None:
    reach = reach_of(url)
    assert reach.url == clean
    given = tuple(value for name, value in reach.env.items() if name.startswith("GIGAFACTORY_GIT_"))
    assert given == secrets
    assert without_passwords(f"fatal: {url} is away") == f"fatal: {without_passwords(url)} is away"


async def test_git_is_answered_with_the_password_of_the_url(tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 401 no\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n")
        writer.write(b"Connection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reach = reach_of(f"http://ann:hunter2@127.0.0.1:{port}/x.git")
        with pytest.raises(GitError) as error:
            await git(tmp_path, "ls-remote", reach.url, env=reach.env)
    assert any(b"Authorization: Basic YW5uOmh1bnRlcjI=" in one for one in asked)
    assert "hunter2" not in str(error.value)
