"""A job in a real sandbox looks for what is the fleet's, or another term's."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from factory.engines.shell import ShellEngine
from factory.marked import end_marked
from factory.ports import Worktree
from factory.process import LAUNCHER, MARK
from factory.surroundings.folders import FolderRoots, TermFolders, scratch_root
from factory.surroundings.sandbox import Mode, Sandbox, missing
from factory.surroundings.surroundings import Surroundings
from factory.surroundings.variables import machine_variables
from schemas.outcome import Outcome
from tests.support.terms import git, grant, make_repo, stop_order
from tests.support.waiting import eventually
from tests.unit.factory.test_term import Life, ended

LACKING = missing(Mode.STRICT)
pytestmark = [
    pytest.mark.xdist_group("git"),
    pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
]
BOTH = pytest.mark.parametrize("mode", [Mode.VEIL, Mode.STRICT])


def life_in(data: Path, mode: Mode, body: str, **fields: object) -> Life:
    """A term whose factory, with its secrets and other terms' trees, lives in `data`; HOME is beside it."""
    home = data.parent / "home"
    home.mkdir(exist_ok=True)
    variables = machine_variables(os.environ) | {"HOME": str(home)}
    sandbox = Sandbox(mode, (data, data.parent / "token"), (), home)
    return Life(
        data,
        body,
        surroundings=Surroundings(variables, FolderRoots(data / "terms", data / "scratch"), sandbox),
        **fields,
    )


async def whole_log(life: Life) -> str:
    await life.term.tools.logs.settle(10.0)
    return life.said


def fleet_of(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    (data / "secrets").mkdir(parents=True)
    (data / "secrets" / "operator.token").write_text("gfo.secret")
    (data / "work" / "trees" / "other" / "1" / "tree").mkdir(parents=True)
    (data / "work" / "trees" / "other" / "1" / "tree" / "file").write_text("gfo.secret")
    (tmp_path / "token").write_text("gfo.secret")
    return data


@BOTH
async def test_nothing_of_the_fleet_is_found_however_it_is_looked_for(tmp_path: Path, mode: Mode) -> None:
    data = fleet_of(tmp_path)
    looks = f"""
cat {data}/secrets/operator.token {data}/work/trees/other/1/tree/file {tmp_path}/token
cat "$GIGAFACTORY_SCRATCH"/../../secrets/operator.token ../../../../../secrets/operator.token
for p in /proc/[0-9]*; do cat $p/root{data}/secrets/operator.token; tr '\\0' '\\n' < $p/environ; done
umount {data} && cat {data}/secrets/operator.token
unshare -Urm sh -c 'umount -l {data}; cat {data}/secrets/operator.token'
ls {data} {data}/work/trees ../vault.git
ln -s {data}/secrets/operator.token link && cat link
true
"""
    life = life_in(data, mode, "set +e; (" + looks + ") 2>/dev/null")
    end = await ended(life)
    assert end.result.outcome is Outcome.OK, end.result.summary
    assert "gfo.secret" not in await whole_log(life)
    listed = [line for line in (await whole_log(life)).splitlines() if line in ("secrets", "other", "HEAD", "objects")]
    assert not listed, await whole_log(life)


@BOTH
async def test_nothing_of_the_fleet_is_changed_and_the_work_is_saved_as_ever(tmp_path: Path, mode: Mode) -> None:
    data = fleet_of(tmp_path)
    body = f"""
echo x > {data}/secrets/operator.token || echo refused
echo x > {data}/new || echo refused
mkdir {data}/work/new || echo refused
echo work > file; git add file
git -c user.name=A -c user.email=a@b.invalid commit --quiet --message mine; git worktree add --quiet ../beside
echo beside > ../beside/more
echo kept > "$GIGAFACTORY_SCRATCH/note"; cat "$GIGAFACTORY_SCRATCH/note"
"""
    life = life_in(data, mode, body, verify=("test -f file && test ! -e /nowhere",))
    end = await ended(life)
    assert end.result.outcome is Outcome.OK, end.result.summary
    assert (await whole_log(life)).count("refused") == 3
    assert "kept" in await whole_log(life)
    assert (data / "secrets" / "operator.token").read_text() == "gfo.secret"
    assert (data / "work" / "trees" / "other" / "1" / "tree" / "file").exists()
    assert end.checkpoint is not None
    saved = git(data / "work" / "repos" / "own", "log", "--all", "--format=", "--name-only").split()
    assert {"file", "more"} <= set(saved), "a worktree beside the tree is the term's own"


WORKTREE_OF_SECRETS = """
git init --quiet . 2>/dev/null
mkdir -p .git/worktrees/other
echo {secrets}/.git > .git/worktrees/other/gitdir
git rev-parse HEAD > .git/worktrees/other/HEAD
echo ../.. > .git/worktrees/other/commondir
"""
LINKED_REFS = "rm -rf .git/refs && ln -s {other}/.git/refs .git/refs"
BORROWED = "echo {other}/.git/objects > .git/objects/info/alternates; git rev-parse HEAD > /dev/null"
ANOTHERS_REPOSITORY = "mkdir inner && echo 'gitdir: {other}/.git' > inner/.git"


@BOTH
@pytest.mark.parametrize("body", [WORKTREE_OF_SECRETS, LINKED_REFS, BORROWED, ANOTHERS_REPOSITORY])
async def test_the_factory_fetches_nothing_for_a_job_that_the_job_cannot_see(
    tmp_path: Path, mode: Mode, body: str
) -> None:
    data = fleet_of(tmp_path)
    other = data / "work" / "trees" / "other" / "1" / "tree"
    git(other, "init", "--quiet", "--initial-branch=main")
    git(other, "add", "--all")
    git(other, "commit", "--quiet", "--message", "of another")
    life = life_in(data, mode, "set +e\n" + body.format(secrets=data / "secrets", other=other) + "\necho mine > mine")
    await ended(life)
    saved = git(data / "work" / "repos" / "own", "log", "--all", "--format=%s", "--name-only").split("\n")
    assert "mine" in saved, "what is the job's own is saved all the same"
    for theirs in ("of another", "operator.token", "file"):
        assert theirs not in saved
    blobs = git(data / "work" / "repos" / "own", "cat-file", "--batch-all-objects", "--batch-check").splitlines()
    assert not [line for line in blobs if git(other, "rev-parse", "HEAD") in line]


async def test_a_strict_sandbox_has_a_system_home_and_tmp_of_its_own(tmp_path: Path) -> None:
    data = fleet_of(tmp_path)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "private").write_text("private")
    (tmp_path / "home" / ".gitconfig").write_text("[user]\nname = Ann of the machine\n")
    body = f"""
cat ~/private && exit 1
touch /usr/x /etc/x && exit 1
test -e {outside} && exit 1
test "$(ls -d /proc/[0-9]* | wc -l)" -lt 12 || exit 1
git config user.name
echo own > ~/mine && echo own > /tmp/mine && cat ~/mine /tmp/mine
"""
    life = life_in(data, Mode.STRICT, body)
    end = await ended(life)
    assert end.result.outcome is Outcome.OK, (end.result.summary, await whole_log(life))
    assert "Ann of the machine" in await whole_log(life)
    assert (await whole_log(life)).count("own\n") == 2
    assert not (tmp_path / "home" / "mine").exists()
    await life.term.tidy(end, superseded=False)
    assert not life.folders.scratch.exists()


async def test_a_worktree_in_a_strict_sandboxs_own_tmp_or_home_is_saved_too(tmp_path: Path) -> None:
    data = fleet_of(tmp_path)
    body = """
git worktree add --quiet /tmp/beside
echo x > /tmp/beside/in-tmp
git worktree add --quiet ~/other
echo x > ~/other/in-home
"""
    end = await ended(life_in(data, Mode.STRICT, body))
    assert end.result.outcome is Outcome.OK, end.result.summary
    saved = git(data / "work" / "repos" / "own", "log", "--all", "--format=", "--name-only").split()
    assert {"in-tmp", "in-home"} <= set(saved)


async def test_a_strict_sandbox_without_a_network_has_the_loopback_only(tmp_path: Path) -> None:
    body = "cat /proc/net/dev | grep -c ':' ; ls /sys/class/net || true"
    life = life_in(fleet_of(tmp_path), Mode.STRICT, body, network=False)
    end = await ended(life)
    assert end.result.outcome is Outcome.OK, end.result.summary
    assert "1\n" in await whole_log(life)


async def test_a_job_that_must_not_have_a_network_is_not_run_where_it_would(tmp_path: Path) -> None:
    life = life_in(fleet_of(tmp_path), Mode.VEIL, "touch ran", network=False)
    end = await ended(life)
    assert end.result.outcome is Outcome.MACHINE_FAILED
    assert "network: off needs a strict sandbox" in end.result.summary


@BOTH
async def test_what_a_job_leaves_running_in_its_sandbox_dies_with_it(tmp_path: Path, mode: Mode) -> None:
    life = life_in(fleet_of(tmp_path), mode, "(trap '' TERM; setsid sh -c 'while :; do sleep 0.1; done' &) ; echo up")
    end = await asyncio.wait_for(ended(life), 30.0)
    assert end.result.outcome is Outcome.OK
    assert not await end_marked(MARK, str(life.folders.control))


@BOTH
async def test_an_engine_in_a_sandbox_is_asked_before_it_is_killed(tmp_path: Path, mode: Mode) -> None:
    life = life_in(fleet_of(tmp_path), mode, "trap 'echo tidied; exit 0' TERM; touch up; while :; do sleep 0.05; done")
    running = asyncio.create_task(ended(life))
    await eventually((life.tree / "up").exists)
    life.state.heard_stop(stop_order("cancel"), life.clock.boot_s())
    life.term.poke()
    assert (await running).result.outcome is Outcome.CANCELLED
    assert "tidied" in await whole_log(life)


async def test_a_sandbox_that_cannot_be_made_is_no_fault_of_the_job(tmp_path: Path) -> None:
    life = life_in(fleet_of(tmp_path), Mode.VEIL, "touch ran")
    sandbox = life.term.tools.surroundings.sandbox
    assert sandbox is not None
    wrong = ("bwrap", "--bind", "/there/is/no/such/folder", "/x")
    object.__setattr__(life.term.tools, "surroundings", _Broken({}, sandbox, words=wrong))
    end = await ended(life)
    assert end.result.outcome is Outcome.MACHINE_FAILED
    assert "sandbox could not be made" in end.result.summary
    assert "/there/is/no/such/folder" in await whole_log(life)


class _Broken(Surroundings):
    def __init__(self, variables: dict[str, str], sandbox: Sandbox, words: tuple[str, ...]) -> None:
        super().__init__(variables | {"PATH": os.environ["PATH"]}, sandbox)
        object.__setattr__(self, "words", words)

    def around(self, *_: object) -> tuple[str, ...]:
        return tuple(self.words)  # type: ignore[attr-defined]


def test_a_path_that_is_shown_inside_a_hidden_one_is_seen_and_one_hidden_inside_a_shown_one_is_not(
    tmp_path: Path,
) -> None:
    for name in ("fleet/shown/deep", "open/hidden"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("here")
    hidden = (tmp_path / "fleet", tmp_path / "open" / "hidden")
    shown = (tmp_path / "fleet" / "shown", tmp_path / "open")
    folders = TermFolders(tmp_path / "fleet" / "control", tmp_path / "scratch")
    folders.make(home=False)
    tree = tmp_path / "tree"
    tree.mkdir()
    term = Worktree(tree, tree, None, "job1", 1, "", local=True)
    words = Sandbox(Mode.VEIL, hidden, shown, tmp_path).around(term, folders, network=True)
    script = f"cat {tmp_path}/fleet/shown/deep/file; echo; ls {tmp_path}/open/hidden; ls {tmp_path}/fleet"
    told = subprocess.run([*words, "--", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert told.stdout.split() == ["here", "control", "shown"]


def test_scratch_folders_are_apart_from_the_factorys_data_and_from_another_factorys(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path / "home")}
    one, other = scratch_root(tmp_path / "one", env), scratch_root(tmp_path / "other", env)
    assert one != other
    assert one.is_relative_to(tmp_path / "home" / ".cache")
    assert scratch_root(tmp_path, {"XDG_CACHE_HOME": "/caches"}).is_relative_to("/caches/gigafactory")


def test_the_shell_engines_scripts_are_what_a_sandboxed_engine_reads(tmp_path: Path) -> None:
    command = ShellEngine().command(grant(), tmp_path)
    assert str(tmp_path) in command.argv[1]


TREE_AWAY = "cd ..; mv tree mine; ln -s {secrets} tree; true"
HOME_AWAY = """
mv "$GIGAFACTORY_SCRATCH" moved; rmdir "$GIGAFACTORY_SCRATCH/../tmp"; ln -s {secrets} "$GIGAFACTORY_SCRATCH/../tmp"
ln -sfn {secrets} "$GIGAFACTORY_SCRATCH/tmp"; ln -sfn {secrets} "$GIGAFACTORY_SCRATCH/home"; echo mine > mine
"""
LINK_IN_HOME = """
git init -q . 2> /dev/null; ln -s {secrets} ~/lnk; mkdir -p .git/worktrees/w; echo ~/lnk/.git > .git/worktrees/w/gitdir
git rev-parse HEAD > .git/worktrees/w/HEAD; echo ../.. > .git/worktrees/w/commondir; echo mine > mine
"""
DOTS = """
mkdir -p .git/worktrees/w; echo /tmp/../{secrets}/.git > .git/worktrees/w/gitdir
git rev-parse HEAD > .git/worktrees/w/HEAD; echo ../.. > .git/worktrees/w/commondir; echo mine > mine
"""
QUOTED = """
git init -q inner; git -C inner -c user.name=A -c user.email=a@b.invalid commit -q --allow-empty -m x
printf '"%s"\\n' "{other}/.git/objects" > inner/.git/objects/info/alternates; mkdir c; cp -r inner/.git/. c/
rm -rf c/refs; ln -s {other}/.git/refs c/refs; echo ../../c > inner/.git/commondir; echo mine > mine
"""


@BOTH
@pytest.mark.parametrize("body", [TREE_AWAY, HOME_AWAY, LINK_IN_HOME, DOTS, QUOTED])
async def test_what_a_job_puts_in_another_places_stead_leads_nowhere(tmp_path: Path, mode: Mode, body: str) -> None:
    data = fleet_of(tmp_path)
    other = data / "work" / "trees" / "other" / "1" / "tree"
    git(other, "init", "--quiet", "--initial-branch=main")
    git(other, "add", "--all")
    git(other, "commit", "--quiet", "--message", "of another")
    script = "set +e\n" + body.format(secrets=data / "secrets", other=other)
    life = life_in(data, mode, script, verify=("cat /tmp/operator.token ~/operator.token 2> /dev/null || true",))
    await ended(life)
    assert "gfo.secret" not in await whole_log(life)
    own = data / "work" / "repos" / "own"
    names = git(own, "log", "--all", "--format=%s", "--name-only").splitlines()
    assert not {"of another", "operator.token"} & set(names)
    token = blob_id(b"gfo.secret")
    assert token not in git(own, "cat-file", "--batch-all-objects", "--batch-check=%(objectname)").splitlines()


def blob_id(data: bytes) -> str:
    """The id of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@BOTH
async def test_a_remote_of_the_jobs_own_is_pushed_to_by_nobody(tmp_path: Path, mode: Mode) -> None:
    """Its hooks would run outside."""
    data = fleet_of(tmp_path)
    repo = make_repo(tmp_path / "repo")
    body = f"""
git init -q --bare "$GIGAFACTORY_SCRATCH/evil.git"
printf '#!/bin/sh\\ntouch {tmp_path}/ran\\n' > "$GIGAFACTORY_SCRATCH/evil.git/hooks/pre-receive"
chmod +x "$GIGAFACTORY_SCRATCH/evil.git/hooks/pre-receive"
git init -q sub; cd sub; git -c user.name=A -c user.email=a@b.invalid commit -q --allow-empty -m x
git remote add origin "$GIGAFACTORY_SCRATCH/evil.git"; cd ..
git add sub; git -c user.name=A -c user.email=a@b.invalid commit -qm l
"""
    end = await ended(life_in(data, mode, body, repo=str(repo), verify=("true",)))
    assert end.result.outcome is Outcome.OK, end.result.summary
    assert not (tmp_path / "ran").exists()


async def test_what_the_factory_runs_itself_is_not_written_to_under_a_veil(tmp_path: Path) -> None:
    before = LAUNCHER.read_bytes()
    life = life_in(fleet_of(tmp_path), Mode.VEIL, f"echo '# more' >> {LAUNCHER} || echo refused")
    await ended(life)
    assert "refused" in await whole_log(life)
    assert LAUNCHER.read_bytes() == before
