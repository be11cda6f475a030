"""One worktree per (job, epoch); work in progress outlives its holder; nothing unpushed is ever removed. Real git."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from factory.git.run import git as factory_git
from factory.ports import WorkspaceError, Worktree
from factory.workspace.workspaces import Workspaces
from tests.support.terms import checkpoint, git, grant, make_repo, refs
from tests.support.trees import commit, files_of, of_repo, with_library
from tests.support.trees import write as work

pytestmark = pytest.mark.xdist_group("git")

FILES = {"README.md": "hello\n", "app/main.py": "print(1)\n", ".gitignore": "*.log\n"}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repos" / "app", FILES)


async def saved(spaces: Workspaces, tree: Worktree) -> str:
    done = await spaces.save(tree, "checkpoint")
    assert done is not None
    return done.commit


async def test_a_term_works_in_a_tree_of_its_own_that_begins_at_the_ref(spaces: Workspaces, repo: Path) -> None:
    first = git(repo, "rev-parse", "HEAD")
    git(repo, "tag", "v1")
    (repo / "later.txt").write_text("later\n")
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "second")
    git(repo, "branch", "topic", first)
    for epoch, ref in enumerate(("v1", "topic", first), start=1):
        tree = await spaces.prepare(of_repo(repo, epoch, ref=ref))
        assert tree.base == first
        assert not (tree.path / "later.txt").exists()
    newest = await spaces.prepare(of_repo(repo, 9))
    assert (newest.path / "later.txt").exists()
    work(newest)
    assert not (repo / "new.txt").exists()


async def test_terms_of_one_repository_may_be_prepared_at_once(spaces: Workspaces, repo: Path) -> None:
    grants = [of_repo(repo, epoch) for epoch in range(1, 5)]
    trees = await asyncio.gather(*(spaces.prepare(one) for one in grants))
    assert len({tree.path for tree in trees}) == 4


async def test_what_was_pushed_since_the_last_term_is_there(spaces: Workspaces, repo: Path) -> None:
    await spaces.prepare(of_repo(repo, 1))
    (repo / "later.txt").write_text("later\n")
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "second")
    assert ((await spaces.prepare(of_repo(repo, 2))).path / "later.txt").exists()


async def test_a_checkpoint_holds_untracked_files_and_goes_to_the_fleets_own_ref_alone(
    spaces: Workspaces, repo: Path
) -> None:
    before = refs(repo)
    tree = await spaces.prepare(of_repo(repo))
    work(tree)
    work(tree, "README.md", "changed\n")
    (tree.path / "app/main.py").unlink()
    work(tree, "noise.log", "ignored\n")
    commit = await saved(spaces, tree)
    kept = refs(repo).pop("refs/gigafactory/job1/1")
    assert refs(repo) == {**before, "refs/gigafactory/job1/1": kept}
    assert git(repo, "rev-parse", f"{kept}^1") == commit
    assert files_of(repo, commit) == {"README.md", "new.txt", ".gitignore"}
    assert git(repo, "show", f"{commit}:README.md") == "changed"
    assert git(repo, "rev-parse", f"{commit}^") == tree.base


async def test_a_checkpoint_leaves_the_engines_own_index_and_head_alone(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    work(tree, "staged.txt")
    git(tree.path, "add", "staged.txt")
    work(tree)
    before = git(tree.path, "status", "--porcelain")
    await saved(spaces, tree)
    assert git(tree.path, "status", "--porcelain") == before == "A  staged.txt\n?? new.txt"
    assert git(tree.path, "rev-parse", "HEAD") == tree.base


async def test_nothing_new_makes_no_checkpoint(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    assert await spaces.save(tree, "nothing yet") is None
    work(tree)
    await saved(spaces, tree)
    assert await spaces.save(tree, "nothing since") is None


async def test_an_engines_own_commits_are_kept_even_where_a_checkpoint_had_their_content(
    spaces: Workspaces, repo: Path
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    work(tree)
    await saved(spaces, tree)
    git(tree.path, "add", "--all")
    git(tree.path, "commit", "--quiet", "--message", "the engine's own words")
    assert not await spaces.is_saved(tree)
    commit = await saved(spaces, tree)
    assert git(repo, "log", "-1", "--format=%s", commit) == "the engine's own words"


async def test_work_that_was_taken_back_after_a_checkpoint_is_taken_back_in_the_next(
    spaces: Workspaces, repo: Path
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    work(tree)
    await saved(spaces, tree)
    (tree.path / "new.txt").unlink()
    assert "new.txt" not in files_of(repo, await saved(spaces, tree))


async def test_a_git_that_was_killed_in_the_middle_stands_in_no_later_checkpoints_way(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    for number in range(300):
        work(tree, f"file-{number}", "x" * 2000)
    for steps in range(1, 40):
        saving = asyncio.create_task(spaces.save(tree, "checkpoint"))
        for _ in range(steps):
            await asyncio.sleep(0.001)
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
    work(tree, "last")
    commit = await saved(spaces, tree)
    assert len(files_of(repo, commit)) == 304
    assert not list((tmp_path / "one" / "tmp").iterdir())


async def test_a_push_that_broke_off_in_the_middle_stands_in_no_later_ones_way(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    made = commit(tree.path)
    loose = Path("objects") / made[:2] / made[2:]
    (repo / ".git" / loose).parent.mkdir(exist_ok=True)
    shutil.copy(tree.path / ".git" / loose, repo / ".git" / loose)  # the commit had come, and its tree had not
    await saved(spaces, tree)
    assert "new.txt" in files_of(repo, made)


async def test_a_lock_of_a_git_that_was_killed_is_no_lock(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    work(tree)
    await saved(spaces, tree)
    vault = tree.path.parent / "vault.git"
    for lock in (vault / "refs/keep/k.lock", vault / "config.lock", repo / f".git/{tree.ref}.lock"):
        assert lock.parent.is_dir()
        lock.touch()
    work(tree, "more")
    await saved(spaces, tree)


async def test_a_branch_appears_only_when_the_finished_work_is_published(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    work(tree)
    commit = await saved(spaces, tree)
    assert [ref for ref in refs(repo) if ref.startswith("refs/heads/")] == ["refs/heads/main"]
    assert await spaces.publish(tree, commit) == "fleet/job1/1"
    assert refs(repo)["refs/heads/fleet/job1/1"] == commit
    assert await spaces.diff_stat(tree, commit) == {"files": 1, "insertions": 1, "deletions": 0}


async def test_another_factory_goes_on_from_the_checkpoint_and_pushes_under_its_own_term(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    first = await spaces.prepare(of_repo(repo))
    work(first)
    commit = await saved(spaces, first)
    other = Workspaces(tmp_path / "other", {})
    second = await other.prepare(of_repo(repo, 2, checkpoint=checkpoint(first.ref, commit)))
    assert second.base == commit
    assert (second.path / "new.txt").read_text() == "work\n"
    assert await other.save(second, "nothing new") is None
    work(second, "more.txt")
    later = await saved(other, second)
    work(first, "zombie.txt")  # its late push changes nothing of its successor's
    await saved(spaces, first)
    assert git(repo, "rev-parse", "refs/gigafactory/job1/2^1") == later
    assert files_of(repo, later) >= {"new.txt", "more.txt"}


async def test_a_scratch_tree_begins_empty_and_is_resumed_on_the_same_machine_only(
    spaces: Workspaces, tmp_path: Path
) -> None:
    first = await spaces.prepare(grant())
    assert [path.name for path in first.path.iterdir()] == [".git"]
    work(first)
    kept = await spaces.save(first, "checkpoint")
    assert kept is not None
    assert kept.local
    assert await spaces.publish(first, kept.commit) is None
    resumed = grant(lease_epoch=2, checkpoint=checkpoint(kept.ref, kept.commit))
    assert ((await spaces.prepare(resumed)).path / "new.txt").read_text() == "work\n"
    await spaces.quarantine(first, "a test")
    again = grant(lease_epoch=3, checkpoint=checkpoint(kept.ref, kept.commit))
    assert ((await spaces.prepare(again)).path / "new.txt").read_text() == "work\n"
    elsewhere = Workspaces(tmp_path / "other", {})
    with pytest.raises(WorkspaceError, match=f"the checkpoint {kept.commit[:12]} is not on this machine any more"):
        await elsewhere.prepare(resumed)
    assert await elsewhere.set_aside_left_over() == 0


async def test_a_tree_with_work_that_is_not_pushed_is_not_removed(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    work(tree)
    assert not await spaces.clean_up(tree)
    await saved(spaces, tree)
    work(tree, "new.txt", "changed since\n")
    assert not await spaces.clean_up(tree)
    assert (tree.path / "new.txt").exists()
    await saved(spaces, tree)
    assert await spaces.clean_up(tree)
    assert not tree.path.exists()
    assert await spaces.clean_up(tree)  # twice is once


async def test_a_tree_that_was_never_changed_is_removed(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    assert await spaces.clean_up(tree)
    assert not tree.path.exists()


async def test_a_scratch_tree_is_put_by_once_all_of_it_is_saved_in_the_factorys_own_repository(
    spaces: Workspaces, tmp_path: Path
) -> None:
    tree = await spaces.prepare(grant())
    work(tree)
    assert not await spaces.clean_up(tree)
    commit = await saved(spaces, tree)
    assert await spaces.clean_up(tree)
    assert spaces.finished() == [tmp_path / "one" / "finished" / "job1" / "1"]
    assert (spaces.finished()[0] / "tree" / "new.txt").exists()
    own = tmp_path / "one" / "repos" / "own"
    assert set(refs(own)) == {tree.ref}
    assert git(own, "rev-parse", f"{tree.ref}^1") == commit
    await spaces.remove_finished(spaces.finished()[0])
    assert not (tmp_path / "one" / "finished" / "job1").exists()
    assert not spaces.quarantined()
    again = await spaces.prepare(grant(lease_epoch=2, checkpoint=checkpoint(tree.ref, commit)))
    assert (again.path / "new.txt").read_text() == "work\n"
    assert await spaces.clean_up(again)
    assert set(refs(own)) == {tree.ref}  # nothing new: the checkpoint is still where it was


@pytest.mark.parametrize("change", ["edited", "committed", "a repository inside"])
async def test_a_finished_tree_that_somebody_worked_in_goes_to_quarantine_instead(
    spaces: Workspaces, tmp_path: Path, change: str
) -> None:
    tree = await spaces.prepare(grant())
    work(tree)
    repository_inside(tree, "inside", commits=False)
    await saved(spaces, tree)
    assert await spaces.clean_up(tree)
    (folder,) = spaces.finished()
    path = folder / "tree"
    if change == "edited":
        (path / "new.txt").write_text("more\n")
    elif change == "committed":
        git(path, "commit", "--quiet", "--allow-empty", "--message", "words")
    else:
        git(path / "inside", "commit", "--quiet", "--allow-empty", "--message", "words")
    await spaces.remove_finished(folder)
    assert not spaces.finished()
    (kept,) = spaces.quarantined()
    assert (kept / "new.txt").exists()


async def test_a_tree_in_quarantine_is_kept_whole_and_out_of_its_successors_way(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    kept = []
    for text in ("first\n", "second\n"):  # the same term twice, as no two sessions should
        tree = await spaces.prepare(of_repo(repo))
        work(tree, text=text)
        kept.append(await spaces.quarantine(tree, "a test"))
        assert not tree.path.exists()
        assert await spaces.quarantine(tree, "a test") is None
    assert [(path / "new.txt").read_text() for path in kept if path] == ["first\n", "second\n"]
    assert spaces.quarantined() == sorted(path for path in kept if path)
    assert kept[0] == tmp_path / "one" / "quarantine" / "job1" / "1" / "tree"
    assert git(kept[0], "status", "--porcelain") == "?? new.txt"


async def test_the_trees_of_an_earlier_session_are_set_aside_whatever_state_they_are_in(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    whole = await spaces.prepare(of_repo(repo))
    scratch = await spaces.prepare(grant("job2"))
    older = tmp_path / "one" / "worktrees" / "job3" / "1"  # as a release before this one made them
    git(repo, "worktree", "add", "--quiet", "--detach", str(older))
    half = tmp_path / "one" / "trees" / "job4" / "1"
    (half / "tree").mkdir(parents=True)
    for path in (whole.path, scratch.path, older):
        (path / "new.txt").write_text("work\n")
    (whole.path / ".git" / "index.lock").touch()  # what a killed git may leave
    git(tmp_path, "init", "--quiet")  # the data may lie within a repository of somebody's
    assert await Workspaces(tmp_path / "one", {}).set_aside_left_over() == 3
    assert not half.exists()  # it never had an engine
    assert [path.relative_to(tmp_path / "one/quarantine").parts[0] for path in spaces.quarantined()] == [
        "job1",
        "job2",
        "job3",
    ]
    assert all(git(path, "status", "--porcelain") == "?? new.txt" for path in spaces.quarantined())
    assert all((path / "new.txt").exists() for path in spaces.quarantined())
    assert await Workspaces(tmp_path / "one", {}).set_aside_left_over() == 0
    assert (await spaces.prepare(of_repo(repo))).path == whole.path


async def test_a_job_that_removes_its_git_folder_has_its_files_saved_and_nobody_elses_repository(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "around it")
    tree = await spaces.prepare(of_repo(repo))
    work(tree)
    shutil.rmtree(tree.path / ".git")
    commit = await saved(spaces, tree)
    assert git(repo, "rev-parse", f"{commit}^") == tree.base
    assert files_of(repo, commit) == {*FILES, "new.txt"}
    assert "removed its repository" in tree.notes[0]
    assert not await spaces.clean_up(tree)  # a person may want to look


async def test_git_runs_with_an_identity_of_its_own_and_asks_nobody(
    spaces: Workspaces, repo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    tree = await spaces.prepare(of_repo(repo))
    work(tree)
    commit = await saved(spaces, tree)
    monkeypatch.delenv("GIT_DIR")
    assert git(repo, "log", "-1", "--format=%an", commit) == "Agent Gigafactory"
    assert (await factory_git(repo, "var", "GIT_COMMITTER_IDENT")).startswith("Agent Gigafactory")


def repository_inside(tree: Worktree, name: str, *, commits: bool) -> Path:
    inside = tree.path / name
    inside.mkdir(parents=True)
    git(inside, "init", "--quiet")
    (inside / "file").write_text("inside\n")
    if commits:
        git(inside, "add", "--all")
        git(inside, "commit", "--quiet", "--message", "its own")
    (inside / "later").write_text("not committed\n")
    return inside


async def test_the_files_of_repositories_inside_a_tree_are_saved_with_it(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    work(tree)
    repository_inside(tree, "new", commits=False)
    inside = repository_inside(tree, "a b/żółw", commits=True)
    repository_inside(tree, "a b/żółw/deeper", commits=False)
    (inside / ".gitignore").write_text("noise\n")
    (inside / "noise").write_text("ignored\n")
    commit = await saved(spaces, tree)
    (tree.path / "empty").mkdir()
    git(tree.path / "empty", "init", "--quiet")
    work(tree, "last")
    names = git(repo, "ls-tree", "-r", "-z", "--name-only", await saved(spaces, tree)).split("\0")
    assert set(names) >= {"new.txt", "last", "new/file", "new/later", "a b/żółw/file", "a b/żółw/later"}
    assert {"a b/żółw/deeper/file", "README.md"} <= set(names)
    assert not [name for name in names if ".git/" in name or name.endswith("noise") or name.startswith("empty")]
    assert await spaces.is_saved(tree)
    other = await spaces.prepare(of_repo(repo, 2, checkpoint=checkpoint(tree.ref, commit)))
    assert (other.path / "new" / "file").read_text() == "inside\n"


async def test_the_history_of_a_repository_inside_is_saved_and_comes_back(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    inside = repository_inside(tree, "inside", commits=True)
    head = git(inside, "rev-parse", "HEAD")
    commit = await saved(spaces, tree)
    assert await spaces.clean_up(tree)
    again = await Workspaces(tmp_path / "two", {}).prepare(of_repo(repo, 2, checkpoint=checkpoint(tree.ref, commit)))
    assert git(again.path / "inside", "rev-parse", "HEAD") == head
    assert git(again.path / "inside", "status", "--porcelain") == "A  later"


async def test_a_tree_whose_repository_inside_has_no_commits_is_removed_once_its_files_are_saved(
    spaces: Workspaces, repo: Path
) -> None:
    tree = await spaces.prepare(of_repo(repo))
    repository_inside(tree, "inside", commits=False)
    assert not await spaces.clean_up(tree)
    await saved(spaces, tree)
    assert await spaces.clean_up(tree)


async def test_a_submodule_is_there_stays_a_link_and_its_commits_are_saved(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    library = with_library(repo, tmp_path)
    tree = await spaces.prepare(of_repo(repo))
    assert (tree.path / "lib" / "README.md").exists()
    assert await spaces.is_saved(tree)
    (tree.path / "lib" / "more.txt").write_text("work\n")
    git(tree.path / "lib", "add", "more.txt")
    git(tree.path / "lib", "commit", "--quiet", "--message", "in the submodule")
    inner = git(tree.path / "lib", "rev-parse", "HEAD")
    assert not await spaces.clean_up(tree)
    commit = await saved(spaces, tree)
    assert git(repo, "ls-tree", commit, "lib").startswith(f"160000 commit {inner}")
    again = await Workspaces(tmp_path / "two", {}).prepare(of_repo(repo, 2, checkpoint=checkpoint(tree.ref, commit)))
    assert git(again.path / "lib", "rev-parse", "HEAD") == inner
    assert await spaces.publish(tree, commit) == "fleet/job1/1"
    assert refs(library)["refs/heads/fleet/job1/1"] == inner
    assert await spaces.clean_up(tree)


async def test_what_a_job_added_against_an_ignore_rule_is_saved_too(spaces: Workspaces, repo: Path) -> None:
    tree = await spaces.prepare(of_repo(repo))
    work(tree, "ignored.log")
    assert await spaces.save(tree, "nothing that counts") is None
    work(tree, "wanted.log")
    git(tree.path, "add", "--force", "wanted.log")
    kept = await saved(spaces, tree)
    assert "wanted.log" in git(repo, "ls-tree", "--name-only", kept).split()
    assert "ignored.log" not in git(repo, "ls-tree", "--name-only", kept).split()
    assert await spaces.clean_up(tree)
