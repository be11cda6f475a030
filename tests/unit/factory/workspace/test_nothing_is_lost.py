"""What a term makes is pushed and comes back, wherever git keeps it, or is named and its tree kept. Real git."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from factory.git.run import GitError
from factory.ports import Saved, WorkspaceError, Worktree
from factory.workspace import bundles
from factory.workspace.workspaces import Workspaces
from tests.support.terms import checkpoint, git, make_repo, refs
from tests.support.trees import commit, files_of, has, of_repo, resumed, saved, with_library, write
from tests.support.waiting import eventually

pytestmark = pytest.mark.xdist_group("git")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repos" / "app", {"README.md": "hello\n", ".gitignore": "*.log\nignored/\n"})


async def test_branches_tags_stashes_and_worktrees_beside_head_are_saved_and_come_back(
    spaces: Workspaces, elsewhere: Workspaces, repo: Path, tmp_path: Path
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "checkout", "--quiet", "-b", "side")
    side = commit(tree.path, "beside", name="side.txt")
    git(tree.path, "checkout", "--quiet", "fleet/job1/1")
    git(tree.path, "tag", "--annotate", "v9", "--message", "a tag of the job's", "side")
    tagged = git(tree.path, "rev-parse", "v9")
    for text in ("first\n", "second\n"):
        write(tree, "README.md", text)
        git(tree.path, "stash", "push", "--quiet", "--message", f"the {text.strip()} stash")
    git(tree.path, "worktree", "add", "--quiet", "--detach", str(tree.path / "ignored" / "helper"))
    write(tree, "ignored/helper/draft.txt", "not committed\n")
    git(tree.path, "worktree", "add", "--quiet", "-b", "outer", str(tmp_path / "outer"))
    (tmp_path / "outer" / "outer.txt").write_text("not committed either\n")
    assert not await spaces.is_saved(tree), "HEAD and the files did not move, and yet there is something new"
    done = await saved(spaces, tree)
    assert done.commit == tree.base
    git(repo, "gc", "--quiet", "--prune=now")
    assert await spaces.clean_up(tree)
    assert (tmp_path / "outer" / "outer.txt").exists(), "what lies outside of the tree is not ours to remove"
    again = await elsewhere.prepare(resumed(repo, 2, done))
    assert git(again.path, "rev-parse", "side", "v9") == f"{side}\n{tagged}"
    assert [line.partition(": ")[2] for line in git(again.path, "stash", "list").splitlines()] == [
        "On fleet/job1/1: the second stash",
        "On fleet/job1/1: the first stash",
    ]
    assert git(again.path, "show", "resumed/worktrees/helper:draft.txt") == "not committed"
    assert git(again.path, "show", "resumed/worktrees/outer:outer.txt") == "not committed either"
    assert await elsewhere.save(again, "nothing new") is None
    third = await spaces.prepare(resumed(repo, 3, await _with_a_file(elsewhere, again)))
    assert git(third.path, "rev-parse", "side", "v9") == f"{side}\n{tagged}", "also over a second term"


async def _with_a_file(spaces: Workspaces, tree: Worktree) -> Saved:
    write(tree, "more.txt")
    return await saved(spaces, tree)


async def test_a_resumed_term_has_the_same_head_and_the_same_uncommitted_work(
    spaces: Workspaces, elsewhere: Workspaces, repo: Path
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    head = commit(tree.path, "the engine's own words")
    write(tree, "draft.txt", "not committed\n")
    done = await saved(spaces, tree)
    again = await elsewhere.prepare(resumed(repo, 2, done))
    assert git(again.path, "rev-parse", "HEAD") == head
    assert git(again.path, "symbolic-ref", "HEAD") == "refs/heads/fleet/job1/2"
    assert git(again.path, "status", "--porcelain") == "A  draft.txt"
    git(again.path, "commit", "--quiet", "--message", "the rest")
    last = await saved(elsewhere, again)
    assert await elsewhere.publish(again, last.commit) == "fleet/job1/2"
    said = git(repo, "log", "--format=%s", "fleet/job1/2").splitlines()
    assert said[:2] == ["the rest", "the engine's own words"], "no checkpoint is in the history"
    assert not [line for line in said if "checkpoint" in line]


async def test_submodules_also_nested_and_relative_are_there_and_their_work_is_saved(
    spaces: Workspaces, elsewhere: Workspaces, tmp_path: Path
) -> None:
    allow = ("-c", "protocol.file.allow=always")
    repos = tmp_path / "repos"
    inner = make_repo(repos / "inner")
    outer = make_repo(repos / "outer")
    git(outer, *allow, "submodule", "--quiet", "add", "../inner", "deep/inner")
    git(outer, "commit", "--quiet", "--message", "with inner")
    app = make_repo(repos / "app")
    git(app, *allow, "submodule", "--quiet", "add", "--name", "odd name", "../outer", "lib/outer")
    git(app, "commit", "--quiet", "--message", "with outer")
    tree = await spaces.prepare(of_repo(app))
    deepest = tree.path / "lib" / "outer" / "deep" / "inner"
    assert (deepest / "README.md").exists()
    assert git(tree.path, "status", "--porcelain") == ""
    git(deepest, "checkout", "--quiet", "-b", "topic")
    made = commit(deepest, "deep", name="deep.txt")
    (deepest / "dirt.txt").write_text("not committed\n")
    done = await saved(spaces, tree)
    assert await spaces.clean_up(tree)
    assert made not in git(inner, "rev-list", "--all").split(), "it goes to its own remote when the job ships"
    again = await elsewhere.prepare(resumed(app, 2, done))
    deepest = again.path / "lib" / "outer" / "deep" / "inner"
    assert git(deepest, "rev-parse", "HEAD") == made
    assert git(deepest, "symbolic-ref", "--short", "HEAD") == "topic"
    assert git(deepest, "status", "--porcelain") == "A  dirt.txt"


async def test_a_submodules_commits_go_to_its_remote_when_the_job_ships_or_nothing_is_shipped(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    library = make_repo(tmp_path / "repos" / "library")
    git(repo, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "../library", "lib")
    git(repo, "commit", "--quiet", "--message", "with a submodule")
    tree = await spaces.prepare(of_repo(repo))
    made = commit(tree.path / "lib", name="lib.txt")
    done = await saved(spaces, tree)
    assert "refs/heads/fleet/job1/1" not in refs(library)
    hook = library / ".git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'no pushes on Fridays' >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(GitError, match=r"(?s)not shipped: lib is at .*no pushes on Fridays"):
        await spaces.publish(tree, done.commit)
    assert "refs/heads/fleet/job1/1" not in refs(repo)
    hook.unlink()
    assert await spaces.publish(tree, done.commit) == "fleet/job1/1"
    assert refs(library)["refs/heads/fleet/job1/1"] == made


async def test_a_submodule_whose_commit_is_nowhere_is_named(spaces: Workspaces, repo: Path, tmp_path: Path) -> None:
    library = make_repo(tmp_path / "repos" / "library")
    git(repo, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "../library", "lib")
    lost = commit(repo / "lib", name="never-pushed.txt")
    git(repo, "add", "lib")
    git(repo, "commit", "--quiet", "--message", "a commit that only this clone has")
    with pytest.raises(WorkspaceError, match=f"submodule lib: {library} has no commit {lost[:12]}") as refused:
        await spaces.prepare(of_repo(repo))
    assert refused.value.fault == "manifest"


async def test_a_repository_without_a_remote_is_saved_up_to_a_bound_and_named_beyond(
    spaces: Workspaces, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    inside = make_repo(tree.path / "inside")
    commit(inside, name="big.bin", text=os.urandom(200_000).hex())
    monkeypatch.setattr(bundles, "BUNDLE_BYTES_MAX", 100_000)
    done = await saved(spaces, tree)
    assert "inside/big.bin" in files_of(repo, done.commit), "its files are saved all the same"
    assert "the history of the repository inside is not saved" in tree.notes[0]
    assert not await spaces.clean_up(tree)


NAMES = {
    "latin-1": b"caf\xe9.txt",
    "a dash": b"-rf",
    "a newline": b"two\nlines",
    "a colon": b":(top)x",
    "quotes": b'it\'s "q"',
    "a leading space": b" x ",
}


@pytest.mark.parametrize("kind", NAMES)
async def test_a_file_of_any_name_is_saved_and_comes_back(
    spaces: Workspaces, elsewhere: Workspaces, repo: Path, kind: str
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    name = os.fsdecode(NAMES[kind])
    write(tree, name, "plain\n")
    write(tree, f"ignored/{name}", "forced\n")
    git(tree.path, "add", "--force", "--", f"ignored/{name}")
    inside = make_repo(tree.path / f"repo {name}")
    (inside / name).write_text("inside\n")
    again = await elsewhere.prepare(resumed(repo, 2, await saved(spaces, tree)))
    assert (again.path / name).read_text() == "plain\n"
    assert (again.path / "ignored" / name).read_text() == "forced\n"
    assert (again.path / f"repo {name}" / name).read_text() == "inside\n"


async def test_what_was_hidden_is_not_published_and_what_was_forced_is(spaces: Workspaces, repo: Path) -> None:
    for name in ("settings.ini", "assumed.ini"):
        commit(repo, name=name, text="from upstream\n")
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "update-index", "--skip-worktree", "settings.ini")
    git(tree.path, "update-index", "--assume-unchanged", "assumed.ini")
    write(tree, "settings.ini", "password = hunter2\n")
    write(tree, "assumed.ini", "password = hunter2\n")
    write(tree, "noise.log", "password = hunter2\n")
    with (tree.path / ".git" / "info" / "exclude").open("a") as file:
        file.write("mine.txt\n")
    write(tree, "mine.txt", "password = hunter2\n")
    write(tree, "wanted.log", "forced\n")
    git(tree.path, "add", "--force", "wanted.log")
    write(tree, "meant.txt", "intended\n")
    git(tree.path, "add", "--intent-to-add", "meant.txt")
    done = await saved(spaces, tree)
    assert files_of(repo, done.commit) >= {"wanted.log", "meant.txt"}
    assert not {"noise.log", "mine.txt"} & files_of(repo, done.commit)
    everything = git(repo, "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)")
    blobs = [line.split()[0] for line in everything.splitlines() if line.endswith("blob")]
    assert not [blob for blob in blobs if "hunter2" in git(repo, "cat-file", "blob", blob)]


async def test_a_mode_alone_is_work(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    (tree.path / "README.md").chmod(0o755)
    done = await saved(spaces, tree)
    assert git(repo, "ls-tree", done.commit, "README.md").startswith("100755")


async def test_a_sparse_checkout_deletes_nothing(spaces: Workspaces, repo: Path) -> None:
    commit(repo, name="far/away.txt")
    commit(repo, name="near/here.txt")
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "sparse-checkout", "set", "near")
    assert not (tree.path / "far").exists()
    write(tree, "near/new.txt")
    done = await saved(spaces, tree)
    assert files_of(repo, done.commit) >= {"far/away.txt", "near/here.txt", "near/new.txt"}


def lock_index(tree: Worktree) -> None:
    (tree.path / ".git" / "index.lock").touch()
    (tree.path / ".git" / "HEAD.lock").touch()


def damage_index(tree: Worktree) -> None:
    (tree.path / ".git" / "index").write_bytes(b"DIRC" + os.urandom(100))


def remove_index(tree: Worktree) -> None:
    (tree.path / ".git" / "index").unlink()


def split_index(tree: Worktree) -> None:
    git(tree.path, "update-index", "--split-index")
    git(tree.path, "add", "new.txt")


def break_config(tree: Worktree) -> None:
    (tree.path / ".git" / "config").write_text("[this is\nno configuration")


def remove_vault(tree: Worktree) -> None:
    shutil.rmtree(tree.path.parent / "vault.git")


def init_again(tree: Worktree) -> None:
    shutil.rmtree(tree.path / ".git")
    git(tree.path, "init", "--quiet")


LEFT: dict[str, Callable[[Worktree], None]] = {
    "locks": lock_index,
    "a damaged index": damage_index,
    "no index": remove_index,
    "a split index": split_index,
    "a broken config": break_config,
    "no vault": remove_vault,
    "a new repository": init_again,
}


@pytest.mark.parametrize("left", LEFT)
async def test_work_is_saved_whatever_state_its_repository_is_in(spaces: Workspaces, repo: Path, left: str) -> None:
    tree = await spaces.prepare(of_repo(repo))
    write(tree, "first.txt")
    await saved(spaces, tree)
    write(tree)
    LEFT[left](tree)
    done = await saved(spaces, tree)
    assert files_of(repo, done.commit) == {"README.md", ".gitignore", "first.txt", "new.txt"}
    assert await spaces.publish(tree, done.commit) == "fleet/job1/1"
    said = " ".join(tree.notes)
    assert ("made its folder a new repository" in said) == (left == "a new repository")


async def test_an_engines_gc_takes_nothing_that_was_saved_and_hinders_no_later_save(
    spaces: Workspaces, repo: Path
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "checkout", "--quiet", "-b", "doomed")
    doomed = commit(tree.path, name="doomed.txt")
    git(tree.path, "checkout", "--quiet", "fleet/job1/1")
    write(tree, "staged.txt")
    git(tree.path, "add", "staged.txt")
    await saved(spaces, tree)
    git(tree.path, "branch", "-D", "doomed")
    git(tree.path, "reset", "--quiet")
    git(tree.path, "reflog", "expire", "--expire=now", "--all")
    git(tree.path, "gc", "--quiet", "--prune=now")
    write(tree, "later.txt")
    done = await saved(spaces, tree)
    assert files_of(repo, done.commit) >= {"staged.txt", "later.txt"}
    assert has(repo, doomed), "an earlier checkpoint stays reachable"


async def test_the_servers_reason_is_told_and_the_checkpoint_is_there(spaces: Workspaces, repo: Path) -> None:
    hook = repo / ".git" / "hooks" / "pre-receive"
    hook.write_text(
        "#!/bin/sh\nwhile read old new ref; do case $ref in refs/heads/*) "
        "echo 'GF01: branches are closed' >&2; exit 1;; esac; done\n"
    )
    hook.chmod(0o755)
    tree = await spaces.prepare(of_repo(repo))
    write(tree)
    done = await saved(spaces, tree)
    with pytest.raises(GitError, match="GF01: branches are closed"):
        await spaces.publish(tree, done.commit)
    assert has(repo, done.commit)
    hook.unlink()
    assert await spaces.publish(tree, done.commit) == "fleet/job1/1"


async def test_what_comes_after_the_engine_is_no_work_of_the_term(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    write(tree)
    done = await saved(spaces, tree)
    assert await spaces.settle(tree)
    write(tree, "report.xml", "of verify\n")
    write(tree, "README.md", "formatted by verify\n")
    assert await spaces.changed_since(tree, done.commit) == ["README.md"]
    assert await spaces.clean_up(tree)
    assert "report.xml" not in files_of(repo, refs(repo)["refs/gigafactory/job1/1"])


async def test_a_read_only_folder_is_removed_like_any_other(spaces: Workspaces, repo: Path, tmp_path: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    write(tree, "ignored/cache/module.py")
    (tree.path / "ignored" / "link").symlink_to("/etc")
    (tree.path / "ignored" / "cache").chmod(0o500)
    (tree.path / "ignored").chmod(0o500)
    assert await spaces.clean_up(tree)
    trees = tmp_path / "one" / "trees"
    await eventually(lambda: not any(trees.iterdir()))
    assert os.listdir("/etc")


async def test_a_tree_in_quarantine_is_complete_by_itself(spaces: Workspaces, repo: Path, tmp_path: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    made = commit(tree.path)
    git(tree.path, "worktree", "add", "--quiet", "--detach", str(tree.path / "ignored" / "helper"))
    write(tree, "ignored/helper/draft.txt")
    kept = await spaces.quarantine(tree, "a test")
    assert kept is not None
    shutil.rmtree(tmp_path / "one" / "cache")
    assert git(kept, "fsck", "--strict") == ""
    assert git(kept / "ignored" / "helper", "status", "--porcelain") == "?? draft.txt"
    git(kept, "push", "--quiet", "origin", "HEAD:refs/heads/rescued")
    assert refs(repo)["refs/heads/rescued"] == made


async def test_what_git_keeps_in_odd_places_is_saved_too(spaces: Workspaces, elsewhere: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "update-ref", "refs/wip/mine", commit(tree.path, name="wip.txt"))
    git(tree.path, "reset", "--quiet", "--hard", "HEAD~1")
    write(tree, "README.md", "stashed\n")
    git(tree.path, "stash", "push", "--quiet")
    stash = git(tree.path, "rev-parse", "refs/stash")
    (tree.path / ".git" / "logs" / "refs" / "stash").unlink()
    git(tree.path, "tag", "--annotate", "--no-sign", "-m", "", "--cleanup=verbatim", "empty")
    tagged = git(tree.path, "rev-parse", "empty")
    (tree.path / ".git" / "MERGE_HEAD").write_text(git(tree.path, "rev-parse", "refs/wip/mine") + "\n")
    done = await saved(spaces, tree)
    again = await elsewhere.prepare(resumed(repo, 2, done))
    assert git(again.path, "rev-parse", "refs/stash", "empty") == f"{stash}\n{tagged}"
    assert "wip.txt" in files_of(again.path, "refs/wip/mine")
    assert "wip.txt" in files_of(again.path, "refs/heads/resumed/pending/MERGE_HEAD")


async def test_what_cannot_be_joined_is_named_and_hinders_nothing_else(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "tag", "of-a-file", git(tree.path, "rev-parse", "HEAD:README.md"))
    (tree.path / ".git" / "refs" / "heads" / "broken").write_text("1" * 40 + "\n")
    write(tree)
    done = await saved(spaces, tree)
    assert "new.txt" in files_of(repo, done.commit)
    assert "refs/tags/of-a-file" in tree.notes[0]
    assert not await spaces.clean_up(tree)


async def test_a_pipe_where_a_log_should_be_stops_nobody(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    write(tree)
    logs = tree.path / ".git" / "logs" / "refs"
    logs.mkdir(parents=True, exist_ok=True)
    os.mkfifo(logs / "stash")
    assert "new.txt" in files_of(repo, (await saved(spaces, tree)).commit)
    (logs / "stash").unlink()
    (logs / "stash").write_text("\nno entry\n")
    assert await spaces.is_saved(tree)
    (tree.path / ".git" / "config").unlink()
    os.mkfifo(tree.path / ".git" / "config")
    (tree.path / ".git" / "worktrees" / "x").mkdir(parents=True)
    os.mkfifo(tree.path / ".git" / "worktrees" / "x" / "gitdir")
    assert await spaces.is_saved(tree)


async def test_what_a_job_writes_beside_its_tree_is_named_and_keeps_it(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    (tree.path.parent / "notes.md").write_text("beside\n")
    assert not await spaces.settle(tree)
    assert "notes.md" in tree.notes[-1]
    assert not await spaces.clean_up(tree)
    kept = await spaces.quarantine(tree, "a test")
    assert kept is not None
    assert (kept.parent / "notes.md").read_text() == "beside\n"


async def test_commits_of_repositories_inside_are_saved_where_head_has_none(
    spaces: Workspaces, elsewhere: Workspaces, repo: Path, tmp_path: Path
) -> None:
    upstream = make_repo(tmp_path / "upstream")
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "clone", "--quiet", str(upstream), "inside")
    made = commit(tree.path / "inside", name="inside.txt")
    git(tree.path, "checkout", "--quiet", "--orphan", "pages")
    done = await saved(spaces, tree)
    shutil.rmtree(upstream)
    again = await elsewhere.prepare(resumed(repo, 2, done))
    assert git(again.path / "inside", "rev-parse", "HEAD") == made


async def test_a_job_may_go_on_from_a_branch_of_the_fleet_and_outlives_its_ref(
    spaces: Workspaces, elsewhere: Workspaces, repo: Path
) -> None:
    first = await spaces.prepare(of_repo(repo))
    write(first)
    done = await saved(spaces, first)
    branch = await spaces.publish(first, done.commit)
    second = await elsewhere.prepare(of_repo(repo, job_id="job2", ref=branch))
    assert (second.base, (second.path / "new.txt").read_text()) == (done.commit, "work\n")
    write(second, "more.txt")
    later = await saved(elsewhere, second)
    git(repo, "branch", "-D", str(branch))
    third = await spaces.prepare(
        of_repo(repo, 2, job_id="job2", ref=branch, checkpoint=checkpoint(later.ref, later.commit))
    )
    assert (third.path / "more.txt").exists()


async def test_no_program_that_a_submodule_names_is_run(spaces: Workspaces, repo: Path, tmp_path: Path) -> None:
    with_library(repo, tmp_path)
    tree = await spaces.prepare(of_repo(repo))
    run = tmp_path / "run"
    run.write_text(f"#!/bin/sh\nenv > {tmp_path}/ran\n")
    run.chmod(0o755)
    git(tree.path / "lib", "config", "core.fsmonitor", str(run))
    (tree.path / "lib" / "more.txt").write_text("work\n")
    write(tree)
    await saved(spaces, tree)
    await spaces.is_saved(tree)
    assert not (tmp_path / "ran").exists()


async def test_commits_of_a_submodule_that_is_not_checked_out_any_more_are_saved_and_shipped(
    spaces: Workspaces, elsewhere: Workspaces, repo: Path, tmp_path: Path
) -> None:
    library = with_library(repo, tmp_path)
    tree = await spaces.prepare(of_repo(repo))
    made = commit(tree.path / "lib", name="lib.txt")
    git(tree.path, "commit", "--quiet", "--all", "--message", "bump")
    git(tree.path, "submodule", "--quiet", "deinit", "--force", "lib")
    done = await saved(spaces, tree)
    again = await elsewhere.prepare(resumed(repo, 2, done))
    assert git(again.path / "lib", "rev-parse", "HEAD") == made
    assert await spaces.publish(tree, done.commit) == "fleet/job1/1"
    assert refs(library)["refs/heads/fleet/job1/1"] == made


async def test_an_attempt_after_a_failed_one_may_use_the_same_names(
    spaces: Workspaces, elsewhere: Workspaces, repo: Path
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "tag", "v9")
    git(tree.path, "checkout", "--quiet", "-b", "side")
    side = commit(tree.path, name="side.txt")
    git(tree.path, "checkout", "--quiet", "-b", "fix/login", "main")
    made = commit(tree.path, name="login.txt")
    git(tree.path, "tag", "v9-fix")
    done = await saved(spaces, tree)
    point = checkpoint(done.ref, done.commit)
    again = await elsewhere.prepare(of_repo(repo, 2, checkpoint=point, retries_used=1))
    assert (again.path / "login.txt").exists(), "its work is there"
    assert git(again.path, "symbolic-ref", "--short", "HEAD") == "fleet/job1/2"
    for name in ("side", "fix/login"):
        git(again.path, "checkout", "--quiet", "-b", name)
    git(again.path, "tag", "v9-fix")
    assert git(again.path, "rev-parse", "resumed/side", "resumed/fix/login") == f"{side}\n{made}"
    lost = await elsewhere.prepare(of_repo(repo, 3, checkpoint=point))
    assert git(lost.path, "symbolic-ref", "--short", "HEAD") == "fix/login", "one that was only lost goes on as it was"


async def test_a_vault_that_was_removed_is_made_anew_also_in_a_resumed_term(
    spaces: Workspaces, elsewhere: Workspaces, repo: Path
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    write(tree)
    again = await elsewhere.prepare(resumed(repo, 2, await saved(spaces, tree)))
    remove_vault(again)
    write(again, "more.txt")
    done = await saved(elsewhere, again)
    assert files_of(repo, done.commit) >= {"new.txt", "more.txt"}


async def test_a_submodule_whose_repository_the_job_removed_is_saved_as_files(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    with_library(repo, tmp_path)
    tree = await spaces.prepare(of_repo(repo))
    write(tree, "lib/more.txt")
    shutil.rmtree(tree.path / ".git")
    done = await saved(spaces, tree)
    assert "lib/more.txt" in files_of(repo, done.commit)


async def test_a_folder_with_a_torn_git_file_is_saved_as_files(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    write(tree, "torn/.git", "gitdir: /nowhere/at/all")
    write(tree, "torn/file")
    done = await saved(spaces, tree)
    assert "torn/file" in files_of(repo, done.commit)


async def test_a_linked_worktree_inside_that_was_added_to_the_index_is_saved(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "worktree", "add", "--quiet", "--detach", "inside")
    made = commit(tree.path / "inside", name="in-it.txt")
    git(tree.path, "add", "--all")
    await saved(spaces, tree)
    assert has(repo, made)
    assert await spaces.settle(tree), tree.notes


async def test_a_linked_worktree_beside_the_tree_is_saved_and_nothing_is_said_of_it(
    spaces: Workspaces, repo: Path
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "worktree", "add", "--quiet", "../beside")
    (tree.path.parent / "beside" / "left.txt").write_text("left")
    await saved(spaces, tree)
    assert await spaces.settle(tree)
    assert tree.notes == ()


async def test_a_job_may_do_without_its_remote(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "remote", "remove", "origin")
    write(tree)
    await saved(spaces, tree)
    assert await spaces.settle(tree)
    assert tree.notes == ()


async def test_a_repository_without_a_remote_that_was_added_as_a_link_keeps_nothing_from_shipping(
    spaces: Workspaces, repo: Path
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "init", "--quiet", "tool")
    commit(tree.path / "tool")
    git(tree.path, "add", "--all")
    git(tree.path, "commit", "--quiet", "--message", "with a tool")
    done = await saved(spaces, tree)
    assert await spaces.publish(tree, done.commit) == tree.branch


async def test_a_link_that_gitmodules_does_not_name_keeps_no_other_submodule_away(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    library = make_repo(tmp_path / "repos" / "library")
    git(repo, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "lib")
    make_repo(repo / "unnamed")
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "with a library, and a link that nobody explains")
    tree = await spaces.prepare(of_repo(repo))
    assert any((tree.path / "lib").iterdir())
    assert not list((tree.path / "unnamed").iterdir())
    write(tree)
    assert "new.txt" in files_of(repo, (await saved(spaces, tree)).commit)


async def test_a_tree_with_nothing_but_hidden_files_is_saved_and_they_are_not(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    names = git(tree.path, "ls-files").splitlines()
    git(tree.path, "rm", "--quiet", *names[1:])
    git(tree.path, "commit", "--quiet", "--message", "one file")
    git(tree.path, "update-index", "--skip-worktree", names[0])
    (tree.path / names[0]).write_text("hidden")
    done = await saved(spaces, tree)
    assert git(repo, "show", f"{done.commit}:{names[0]}") != "hidden"


async def test_what_a_repository_inside_hides_is_not_published(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "init", "--quiet", "tool")
    commit(tree.path / "tool")
    (tree.path / "tool" / ".git" / "info").mkdir(exist_ok=True)
    (tree.path / "tool" / ".git" / "info" / "exclude").write_text("private\n")
    write(tree, "tool/private", "hunter2")
    write(tree, "tool/left.txt")
    write(tree, "private", "which nobody hid")
    done = await saved(spaces, tree)
    names = files_of(repo, done.commit)
    assert {"tool/left.txt", "tool/new.txt", "private"} <= names
    assert "tool/private" not in names


async def test_what_goes_through_an_unknown_filter_in_a_repository_inside_is_left_out_and_named(
    spaces: Workspaces, repo: Path
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "init", "--quiet", "tool")
    commit(tree.path / "tool")
    write(tree, "tool/.gitattributes", "*.key filter=crypt\n")
    write(tree, "tool/my.key", "hunter2")
    done = await saved(spaces, tree)
    assert "tool/my.key" not in files_of(repo, done.commit)
    assert not await spaces.settle(tree)
    assert "tool/my.key" in " ".join(tree.notes)


async def test_what_lacks_its_history_is_named_and_all_else_is_saved(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    upstream = make_repo(tmp_path / "upstream")
    for number in range(3):
        commit(upstream, name=f"u{number}")
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "fetch", "--quiet", "--depth=1", f"file://{upstream}", "main:refs/heads/cut-off")
    git(tree.path, "checkout", "--quiet", "-b", "whole")
    made = commit(tree.path)
    git(tree.path, "checkout", "--quiet", tree.branch)
    write(tree, "left.txt")
    done = await saved(spaces, tree)
    assert has(repo, made)
    assert "left.txt" in files_of(repo, done.commit)
    assert not await spaces.settle(tree), "the tree is kept"
    assert "refs/heads/cut-off" in " ".join(tree.notes)


async def test_a_head_whose_history_is_damaged_has_its_files_saved(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    lost = commit(tree.path, name="one.txt")
    commit(tree.path, name="two.txt")
    (tree.path / ".git" / "objects" / lost[:2] / lost[2:]).unlink()
    write(tree, "left.txt")
    done = await saved(spaces, tree)
    assert {"one.txt", "two.txt", "left.txt"} <= files_of(repo, done.commit)
    assert not await spaces.settle(tree)
    assert "the history of HEAD" in " ".join(tree.notes)


def import_quickly(where: Path, said: str) -> None:
    subprocess.run(["git", "fast-import", "--quiet"], cwd=where, input=said.encode(), check=True)


async def test_tens_of_thousands_of_branches_are_saved(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    count = 45_000
    said = "".join(
        f"commit refs/heads/many/{number}\ncommitter A <a@b.invalid> {number} +0000\ndata 0\nfrom refs/heads/main^0\n\n"
        for number in range(count)
    )
    import_quickly(tree.path, said)
    await saved(spaces, tree)
    assert has(repo, git(tree.path, "rev-parse", f"refs/heads/many/{count - 1}"))


async def test_a_source_with_a_branch_named_fleet_is_refused_with_what_to_do(spaces: Workspaces, repo: Path) -> None:
    git(repo, "branch", "fleet")
    with pytest.raises(WorkspaceError, match="has a branch `fleet`, beside which") as refused:
        await spaces.prepare(of_repo(repo))
    assert refused.value.fault == "manifest"


async def test_a_submodules_commit_that_only_an_earlier_link_names_is_saved(
    spaces: Workspaces, elsewhere: Workspaces, repo: Path, tmp_path: Path
) -> None:
    with_library(repo, tmp_path)
    tree = await spaces.prepare(of_repo(repo))
    first = commit(tree.path / "lib", name="first")
    git(tree.path, "commit", "--quiet", "--all", "--message", "the first")
    git(tree.path / "lib", "commit", "--quiet", "--amend", "--message", "another")
    git(tree.path, "commit", "--quiet", "--all", "--message", "the other")
    done = await saved(spaces, tree)
    again = await elsewhere.prepare(resumed(repo, 2, done))
    assert git(again.path / "lib", "cat-file", "-t", first) == "commit"


def reads_everything() -> bool:
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0)
        return os.access(file.name, os.R_OK)


@pytest.mark.skipif(reads_everything(), reason="root reads everything")
async def test_what_cannot_be_read_is_named_and_all_else_is_saved(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    for name in ("closed/file", "secret", "open.txt"):
        write(tree, name)
    (tree.path / "closed").chmod(0)
    (tree.path / "secret").chmod(0)
    done = await saved(spaces, tree)
    assert "open.txt" in files_of(repo, done.commit)
    assert not await spaces.settle(tree)
    assert "closed" in " ".join(tree.notes)
    assert "secret" in " ".join(tree.notes)
    (tree.path / "closed").chmod(0o700)


async def test_the_commits_of_a_rebase_that_stopped_are_saved(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    git(tree.path, "checkout", "--quiet", "--detach")
    commit(tree.path, name="one", text="mine\n")
    last = commit(tree.path, name="two")
    git(tree.path, "checkout", "--quiet", "-b", "other", "main")
    commit(tree.path, name="one", text="theirs\n")
    git(tree.path, "checkout", "--quiet", last)
    stopped = subprocess_rc(tree.path, "rebase", "other")
    assert stopped != 0
    await saved(spaces, tree)
    assert has(repo, last)


def subprocess_rc(where: Path, *args: str) -> int:
    env = {**os.environ, "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b.invalid", "GIT_COMMITTER_NAME": "A"}
    env |= {"GIT_COMMITTER_EMAIL": "a@b.invalid", "GIT_EDITOR": ":"}
    return subprocess.run(["git", *args], cwd=where, env=env, capture_output=True, check=False).returncode


async def test_notes_and_other_refs_of_a_repository_inside_are_saved(
    spaces: Workspaces, elsewhere: Workspaces, repo: Path
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    tool = tree.path / "tool"
    git(tree.path, "init", "--quiet", "tool")
    commit(tool)
    git(tool, "notes", "add", "-m", "a note")
    noted = git(tool, "rev-parse", "refs/notes/commits")
    away = commit(tool, name="away")
    git(tool, "update-ref", "refs/wip/x", away)
    git(tool, "reset", "--quiet", "--hard", "HEAD~1")
    done = await saved(spaces, tree)
    again = await elsewhere.prepare(resumed(repo, 2, done))
    for made in (noted, away):
        assert git(again.path / "tool", "cat-file", "-t", made) == "commit"


async def test_a_remote_that_the_job_added_to_a_submodule_proves_nothing(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    library = with_library(repo, tmp_path)
    tree = await spaces.prepare(of_repo(repo))
    made = commit(tree.path / "lib", name="topic")
    fork = tmp_path / "fork.git"
    git(tmp_path, "init", "--quiet", "--bare", str(fork))
    git(tree.path / "lib", "remote", "add", "fork", str(fork))
    git(tree.path / "lib", "push", "--quiet", "fork", "HEAD:refs/heads/topic")
    git(tree.path / "lib", "fetch", "--quiet", "fork")
    git(tree.path, "commit", "--quiet", "--all", "--message", "a newer library")
    done = await saved(spaces, tree)
    await spaces.publish(tree, done.commit)
    assert has(library, made), "whoever clones the branch finds it where .gitmodules says"
