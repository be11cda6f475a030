"""Whatever a term does in its repository, no other term sees it, at the same time or later. Real git."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from factory.git.run import run
from factory.ports import Worktree
from factory.workspace.workspaces import Workspaces
from tests.support.terms import git, make_repo, refs
from tests.support.trees import commit, files_of, of_repo, saved, write

pytestmark = pytest.mark.xdist_group("git")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repos" / "app", {"README.md": "hello\n", "app/main.py": "print(1)\n"})


def branch(tree: Worktree) -> None:
    git(tree.path, "checkout", "--quiet", "-b", "feature")
    commit(tree.path)


def main_branch(tree: Worktree) -> None:
    git(tree.path, "checkout", "--quiet", "main")
    commit(tree.path, "on main")


def tag(tree: Worktree) -> None:
    git(tree.path, "tag", "v1")


def stash(tree: Worktree) -> None:
    write(tree, "README.md", "stashed\n")
    git(tree.path, "stash", "push", "--quiet")


def config(tree: Worktree) -> None:
    git(tree.path, "config", "user.email", "somebody@example.invalid")


def hook(tree: Worktree) -> None:
    pre_commit = tree.path / ".git" / "hooks" / "pre-commit"
    pre_commit.write_text("#!/bin/sh\nexit 1\n")
    pre_commit.chmod(0o755)


def gc(tree: Worktree) -> None:
    git(tree.path, "reflog", "expire", "--expire=now", "--all")
    git(tree.path, "gc", "--quiet", "--prune=now")


def destroy_objects(tree: Worktree) -> None:
    for file in (tree.path / ".git" / "objects").rglob("*"):
        if file.is_file():
            file.unlink()


def upstream(tree: Worktree) -> None:
    git(tree.path, "remote", "set-url", "origin", "/nowhere")
    git(tree.path, "update-ref", "-d", "refs/remotes/origin/main")


DEEDS: dict[str, Callable[[Worktree], None]] = {
    "makes a branch": branch,
    "commits to its main": main_branch,
    "makes a tag": tag,
    "stashes": stash,
    "sets an identity": config,
    "installs a hook": hook,
    "collects garbage": gc,
    "destroys its objects": destroy_objects,
    "forgets upstream": upstream,
}


@pytest.mark.parametrize("later", [False, True], ids=["at the same time", "later"])
@pytest.mark.parametrize("deed", DEEDS)
async def test_what_one_term_does_another_does_not_see(spaces: Workspaces, repo: Path, deed: str, later: bool) -> None:
    first = await spaces.prepare(of_repo(repo, job_id="first"))
    second = None if later else await spaces.prepare(of_repo(repo, job_id="second"))
    before = refs(repo)
    DEEDS[deed](first)
    assert refs(repo) == before
    second = second or await spaces.prepare(of_repo(repo, job_id="second"))
    assert set(refs(second.path)) == {
        "refs/heads/fleet/second/1",
        "refs/heads/main",
        "refs/remotes/origin/HEAD",
        "refs/remotes/origin/main",
    }
    assert git(second.path, "stash", "list") == ""
    assert git(second.path, "config", "--get", "remote.origin.url") == str(repo)
    assert "example.invalid" not in (second.path / ".git" / "config").read_text()
    DEEDS[deed](second)  # and it can do the same
    if deed not in ("destroys its objects", "installs a hook"):
        made = commit(second.path, name="second.txt")
        done = await saved(spaces, second)
        assert done.commit == made
        assert await spaces.publish(second, done.commit) == "fleet/second/1"
        expected = {"README.md", "app/main.py", "second.txt"} | (
            {"new.txt"} if deed in ("makes a branch", "commits to its main") else set()
        )
        assert files_of(repo, made) == expected


async def test_a_job_can_use_git_as_in_a_fresh_clone(spaces: Workspaces, repo: Path, tmp_path: Path) -> None:
    bare = tmp_path / "origin.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(repo), str(bare))
    git(bare, "tag", "--annotate", "v1", "--message", "one")
    tree = await spaces.prepare(of_repo(bare))
    assert git(tree.path, "describe") == "v1"
    assert git(tree.path, "rev-parse", "--abbrev-ref", "@{u}") == "origin/main"
    person = tmp_path / "person"
    git(tmp_path, "clone", "--quiet", str(bare), str(person))
    theirs = commit(person, name="theirs.txt")
    git(person, "push", "--quiet")
    commit(tree.path, name="ours.txt")
    git(tree.path, "fetch", "--quiet")
    git(tree.path, "rebase", "--quiet", "origin/main")
    assert git(tree.path, "rev-parse", "HEAD^") == theirs
    git(tree.path, "push", "--quiet")
    assert git(bare, "rev-parse", "main") == theirs, "a plain push is no push to main"
    assert git(bare, "rev-parse", "fleet/job1/1") == git(tree.path, "rev-parse", "HEAD")
    git(tree.path, "push", "--quiet", "origin", "HEAD:refs/heads/my-own")
    assert "refs/heads/my-own" in refs(bare)


async def test_main_and_tags_are_what_upstream_has_at_the_grant(spaces: Workspaces, repo: Path) -> None:
    git(repo, "tag", "moves")
    git(repo, "branch", "goes")
    await spaces.prepare(of_repo(repo, 1))
    second = commit(repo, name="second.txt")
    git(repo, "tag", "--force", "moves")
    git(repo, "tag", "--annotate", "new", "--message", "new")
    git(repo, "branch", "--quiet", "-D", "goes")
    tree = await spaces.prepare(of_repo(repo, 2))
    assert git(tree.path, "rev-parse", "main", "origin/main", "moves^{commit}") == "\n".join([second] * 3)
    assert git(tree.path, "describe") == "new"
    assert "refs/remotes/origin/goes" not in refs(tree.path)


HOSTILE_CONFIG = {
    "core.fsmonitor": "{run}",
    "core.sshCommand": "{run}",
    "core.askPass": "{run}",
    "core.hooksPath": "{hooks}",
    "core.gitProxy": "{run}",
    "core.alternateRefsCommand": "{run}",
    "core.pager": "{run}",
    "core.worktree": "/",
    "credential.helper": "!{run}",
    "diff.external": "{run}",
    "filter.evil.clean": "{run}",
    "filter.evil.process": "{run}",
    "gpg.program": "{run}",
    "commit.gpgSign": "true",
    "push.gpgSign": "true",
    "uploadpack.packObjectsHook": "{run}",
    "url.ext::{run}.insteadOf": "/",
    "remote.origin.receivepack": "{run}",
    "remote.origin.vcs": "evil",
    "extensions.partialClone": "origin",
}
HOOKS = ("pre-commit", "post-commit", "pre-push", "reference-transaction", "post-checkout", "post-index-change")


async def test_the_factorys_git_runs_nothing_that_a_job_left_and_pushes_where_it_should(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    run, hooks = tmp_path / "run", tmp_path / "hooks"
    hooks.mkdir()
    run.write_text(f'#!/bin/sh\necho "$0 $*" >> {tmp_path}/ran\ncat > /dev/null\nexit 1\n')
    run.chmod(0o755)
    for name in HOOKS:
        for folder in (hooks, tree.path / ".git" / "hooks"):
            (folder / name).symlink_to(run)
    write(tree, ".gitattributes", "*.txt filter=evil diff=evil\n")
    write(tree, "secret.txt", "under a filter that this machine does not have\n")
    write(tree, "plain.md", "work\n")
    with (tree.path / ".git" / "config").open("a") as file:
        for key, value in HOSTILE_CONFIG.items():
            section, _, name = key.rpartition(".")
            head, _, rest = section.partition(".")
            told = f'{head} "{rest.format(run=run)}"' if rest else head
            file.write(f"[{told}]\n\t{name} = {value.format(run=run, hooks=hooks)}\n")
    done = await saved(spaces, tree)
    assert await spaces.publish(tree, done.commit) == "fleet/job1/1"
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
    assert files_of(repo, done.commit) == {"README.md", "app/main.py", ".gitattributes", "plain.md"}
    assert "secret.txt" in tree.notes[0], "what is left out is named"
    assert not await spaces.clean_up(tree), "and its tree is kept"


async def test_git_variables_of_somewhere_else_reach_no_repository(
    spaces: Workspaces, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fleet that was started from a hook of some other repository."""
    other = make_repo(tmp_path / "other")
    before = refs(other)
    variables = {
        "GIT_DIR": str(other / ".git"),
        "GIT_WORK_TREE": str(other),
        "GIT_INDEX_FILE": str(other / ".git" / "index"),
        "GIT_OBJECT_DIRECTORY": str(other / ".git" / "objects"),
        "GIT_CONFIG_PARAMETERS": "'core.bare=true'",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    tree = await spaces.prepare(of_repo(repo))
    write(tree)
    done = await saved(spaces, tree)
    for name in variables:
        monkeypatch.delenv(name)
    assert refs(other) == before
    assert git(other, "status", "--porcelain") == ""
    assert files_of(repo, done.commit) >= {"new.txt", "README.md"}


async def test_the_machines_way_to_reach_servers_is_kept(
    spaces: Workspaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\necho called >> {tmp_path}/called\nexit 255\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    with pytest.raises(Exception, match="Could not read from remote repository"):
        await spaces.prepare(of_repo("ssh://git@host.invalid/repo.git"))
    assert (tmp_path / "called").exists()


@pytest.mark.parametrize(
    ("config_text", "who"),
    [
        ("[user]\n\tname = Ann\n\temail = ann@example.invalid\n", "ann@example.invalid"),
        ("[user]\n\tuseConfigOnly = true\n", "factory@gigafactory.invalid"),
    ],
    ids=["the machine's", "the factory's"],
)
async def test_a_job_commits_under_the_machines_identity_or_else_the_factorys(
    spaces: Workspaces, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config_text: str, who: str
) -> None:
    (tmp_path / ".gitconfig").write_text(config_text)
    monkeypatch.setenv("HOME", str(tmp_path))
    tree = await spaces.prepare(of_repo(repo))
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    await run(["git", "commit", "--quiet", "--allow-empty", "-m", "words"], cwd=tree.path, env=env)
    assert git(tree.path, "log", "-1", "--format=%ae") == who
