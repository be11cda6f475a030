"""One term with a real launcher, real git and the shell engine; only the clock is the test's own."""

from __future__ import annotations

import asyncio
import errno
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from factory.engines.shell import ShellEngine
from factory.log_delivery import LogDelivery
from factory.ports import Saved
from factory.process import EngineProcess
from factory.surroundings.folders import FolderRoots
from factory.surroundings.surroundings import Surroundings
from factory.surroundings.variables import machine_variables
from factory.term import Term, TermEnd, Tools
from factory.term_state import TermState
from factory.trust import TrustWindow
from factory.workspace.workspaces import Workspaces
from runtime.clock import SystemClock
from schemas.messages import LogChunk
from schemas.outcome import Outcome
from tests.support.terms import git, grant, make_repo, stop_order, term_times
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("git")

LEASE_S = 100_000.0


class AheadClock:
    """The machine's clock, which the test may put forward: launchers have the real one."""

    def __init__(self) -> None:
        self._real = SystemClock()
        self.ahead_s = 0.0

    def now(self) -> datetime:
        return self._real.now()

    def boot_s(self) -> float:
        return self._real.boot_s() + self.ahead_s


class Life:
    """One term in a folder. `said` is its live log as it went out."""

    def __init__(self, folder: Path, body: str, surroundings: Surroundings | None = None, **fields: Any) -> None:
        self.clock = AheadClock()
        roots = FolderRoots(folder / "terms", folder / "scratch")
        self.folders = roots.of("job1", 1)
        self.said = ""
        self.checkpoints: list[Saved] = []
        script = f"```sh\n{body}\n```\n"
        granted = grant(body_md=script, started=True, term=term_times(LEASE_S, LEASE_S), **fields)
        trust = TrustWindow(self.clock.boot_s(), granted.term, 5.0, started=True)
        self.state = TermState(granted, trust, idle_limit_s=LEASE_S)
        self.workspaces = Workspaces(folder / "work", {}, surroundings.place if surroundings else None)
        self.tree = folder / "work" / "trees" / "job1" / "1" / "tree"
        tools = Tools(
            clock=self.clock,
            trees=self.workspaces,
            launch=EngineProcess.start,
            adapter=ShellEngine(),
            folders=self.folders,
            surroundings=surroundings or Surroundings(machine_variables(os.environ), roots),
            factory_id="f1",
            session_id="s1",
            checkpoint_every_s=0.1,
            logs=LogDelivery(folder / "logs", self._send),
            save_checkpoint=self._saved,
        )
        self.term = Term(self.state, tools)

    async def _send(self, chunk: LogChunk, *, live: bool) -> int:
        self.said += chunk.text
        return chunk.offset + len(chunk.text.encode())

    async def _saved(self, state: TermState, saved: Saved) -> None:
        self.checkpoints.append(saved)

    def passes(self, seconds: float) -> None:
        self.clock.ahead_s += seconds
        self.term.poke()


async def ended(life: Life) -> TermEnd:
    return await asyncio.wait_for(life.term.run(), 60.0)


async def test_the_engine_and_every_verify_command_share_one_wall_time(tmp_path: Path) -> None:
    life = Life(tmp_path, "echo > ran", timeout_s=100.0, verify=("echo > one; sleep 0.5", "echo > two; sleep 5"))
    running = asyncio.create_task(ended(life))
    await eventually((life.tree / "one").exists)
    life.passes(60.0)
    await eventually((life.tree / "two").exists)
    life.passes(60.0)  # 60 s of its own, but 120 s of the term
    end = await running
    assert end.result.outcome is Outcome.TIMEOUT
    assert end.checkpoint is not None, "what there is by then is saved"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is asked of Linux")
async def test_a_disk_that_is_full_ends_no_job_and_the_report_says_what_it_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(tmp_path, "echo one; echo > ran; sleep 1; echo two")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "job1-1.log").symlink_to("/dev/full")
    running = asyncio.create_task(ended(life))
    await eventually((life.tree / "ran").exists)
    with monkeypatch.context() as patch:  # while it is renewed and checkpoints are due
        patch.setattr("factory.process.note_trust", full)
        patch.setattr("tempfile.TemporaryDirectory", full)
        life.state.trust.extend(life.clock.boot_s(), 2 * LEASE_S, life.clock.boot_s())
        life.term.poke()
        await asyncio.sleep(0.3)
    end = await running
    assert end.result.outcome is Outcome.OK
    assert "No space left on device" in (end.result.summary or "")
    await eventually(lambda: life.said.endswith("two\n"))
    assert life.said.count("No space left on device") == 1
    assert end.checkpoint is not None or life.checkpoints, "saved as soon as there was room"


async def test_what_the_manifest_names_wrongly_is_unrunnable_and_what_the_machine_cannot_do_is_its_own_fault(
    tmp_path: Path,
) -> None:
    repo = make_repo(tmp_path / "app")
    end = await ended(Life(tmp_path / "one", "true", repo=str(repo), ref="nowhere"))
    assert end.result.outcome is Outcome.UNRUNNABLE
    assert end.result.summary == f"ref: {repo} has no branch, tag or commit 'nowhere'"
    end = await ended(Life(tmp_path / "two", "true", repo=str(tmp_path / "no-such-repository")))
    assert end.result.outcome is Outcome.MACHINE_FAILED
    assert str(end.result.summary).startswith(f"repo: {tmp_path}/no-such-repository: git ls-remote: fatal: ")
    end = await ended(Life(tmp_path / "three", "true", repo=str(repo)))
    assert end.result.outcome is Outcome.OK


async def test_a_term_that_is_cancelled_while_its_tree_is_made_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    """A server that takes the connection and never answers."""
    held = asyncio.Event()
    writers = []

    async def say_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        held.set()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    life = Life(tmp_path, "true", repo=f"http://127.0.0.1:{port}/x.git")
    running = asyncio.create_task(ended(life))
    await asyncio.wait_for(held.wait(), 30)
    life.state.heard_stop(stop_order("cancel"), life.clock.boot_s())
    life.term.poke()
    end = await asyncio.wait_for(running, 10)
    for writer in writers:
        writer.close()
    server.close()
    assert end.result.outcome is Outcome.CANCELLED
    assert not list((tmp_path / "work" / "trees").glob("*/*"))
    await eventually(lambda: f"[gigafactory] looking at http://127.0.0.1:{port}/x.git" in life.said)


async def test_a_branch_that_the_server_refuses_is_published_later_without_the_engine(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "app")
    hook = repo / ".git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\ngrep -q refs/heads && echo 'GF01: closed on Fridays' >&2 && exit 1\nexit 0\n")
    hook.chmod(0o755)
    script = f"echo work > new.txt; echo ran >> {tmp_path}/ran"
    end = await ended(Life(tmp_path / "one", script, repo=str(repo), verify=("test -f new.txt",)))
    assert end.result.outcome is Outcome.UNPUBLISHED
    assert "GF01: closed on Fridays" in str(end.result.summary)
    assert [one.rc for one in end.result.verify] == [0]
    assert end.checkpoint is not None
    assert end.checkpoint.commit == end.result.commit
    hook.unlink()
    again = Life(tmp_path / "two", script, repo=str(repo), lease_epoch=2, checkpoint=end.checkpoint, publish_only=True)
    last = await ended(again)
    assert (last.result.outcome, last.result.branch) == (Outcome.OK, "fleet/job1/2")
    assert git(repo, "rev-parse", "fleet/job1/2") == end.result.commit
    assert (tmp_path / "ran").read_text() == "ran\n", "no engine ran again"


async def test_verify_sees_the_work_and_what_it_leaves_is_not_shipped(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "app")
    verify = ("test -f new.txt && echo junk > junk.txt && echo formatted > README.md",)
    life = Life(tmp_path, "echo work > new.txt", repo=str(repo), verify=verify)
    end = await ended(life)
    assert end.result.outcome is Outcome.OK
    assert "verify changed files of the work, which is shipped as it was before: README.md" in str(end.result.summary)
    assert git(repo, "ls-tree", "-r", "--name-only", str(end.result.branch)).split() == ["README.md", "new.txt"]
    assert git(repo, "show", f"{end.result.branch}:README.md") == "hello"
    await life.term.tidy(end, superseded=False)
    assert not life.tree.exists(), "junk of verify keeps no tree"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"timeout_s": 100.0}, "it ran for 100 s, which is the timeout of the manifest"),
        ({"idle_s": 50.0}, "it printed nothing for 50 s, which is the idle of the manifest"),
    ],
)
async def test_the_limit_that_ended_a_run_is_named(tmp_path: Path, fields: dict[str, float], sentence: str) -> None:
    life = Life(tmp_path, "echo > ran; sleep 60", **fields)
    running = asyncio.create_task(ended(life))
    await eventually((life.tree / "ran").exists)
    life.state.trust.extend(life.clock.boot_s(), 10 * LEASE_S, life.clock.boot_s())
    life.passes(101.0)
    assert sentence in str((await running).result.summary)


async def test_the_folder_of_a_term_goes_when_it_is_over_even_if_no_tree_was_ever_made(tmp_path: Path) -> None:
    life = Life(tmp_path, "true")
    life.state.heard_stop(stop_order("cancel"), life.clock.boot_s())
    life.folders.make(home=True)
    end = await ended(life)
    assert end.result.outcome is Outcome.CANCELLED
    await life.term.tidy(end, superseded=False)
    assert not life.folders.control.exists()
    assert not life.folders.scratch.exists()


async def test_a_server_that_takes_no_checkpoint_is_asked_by_no_other_machine(tmp_path: Path) -> None:
    """Each would run the engine once more, for the same answer."""
    repo = make_repo(tmp_path / "repo")
    hook = repo / ".git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho POLICY-9: no such refs >&2\nexit 1\n")
    hook.chmod(0o755)
    end = await ended(Life(tmp_path / "life", "echo > made", repo=str(repo)))
    assert end.result.outcome is Outcome.UNRUNNABLE
    assert "POLICY-9: no such refs" in (end.result.summary or "")
    assert "the tree is kept on f1" in (end.result.summary or "")


async def test_what_the_job_left_that_git_cannot_read_is_the_jobs_own_and_keeps_no_machine_from_work(
    tmp_path: Path,
) -> None:
    repo = make_repo(tmp_path / "repo")
    end = await ended(Life(tmp_path / "life", "echo zz >> .git/packed-refs; echo > made", repo=str(repo)))
    assert end.result.outcome is Outcome.ENGINE_FAILED
    assert "could not be saved" in (end.result.summary or "")
    assert not end.shows_machine


async def test_a_pipe_in_the_place_of_a_file_that_git_reads_holds_no_seat(tmp_path: Path) -> None:
    for name in (".gitignore", ".gitattributes"):
        repo = make_repo(tmp_path / f"repo{name}")
        body = f"mkfifo {name}; echo > made"
        end = await asyncio.wait_for(ended(Life(tmp_path / f"life{name}", body, repo=str(repo))), 30.0)
        assert end.result.outcome is Outcome.ENGINE_FAILED
        assert f"{name} is no file" in (end.result.summary or "")


async def test_a_launcher_that_was_killed_is_charged_to_nobody(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo")
    life = Life(tmp_path / "life", "echo > made; touch ready; sleep 60", repo=str(repo))
    running = asyncio.create_task(ended(life))
    await eventually((life.tree / "ready").exists)
    note = orjson.loads((life.folders.control / "launcher.json").read_bytes())
    psutil.Process(note["pid"]).kill()
    end = await running
    assert end.result.outcome is Outcome.MACHINE_FAILED
    assert end.checkpoint is not None or life.checkpoints, "what there is by then is saved"


async def test_a_verify_that_could_not_be_run_is_charged_to_nobody(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo")
    life = Life(tmp_path / "life", "echo > made", repo=str(repo), verify=("touch verifying; sleep 60",))
    running = asyncio.create_task(ended(life))
    await eventually((life.tree / "verifying").exists)
    note = orjson.loads((life.folders.control / "launcher.json").read_bytes())
    psutil.Process(note["pid"]).kill()
    assert (await running).result.outcome is Outcome.MACHINE_FAILED
