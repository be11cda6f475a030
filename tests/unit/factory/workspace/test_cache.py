"""The copy of a source is of no consequence: whatever becomes of it, terms are made and live on. Real git."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from factory.ports import WorkspaceError
from factory.workspace.workspaces import Workspaces
from tests.support.terms import git, make_repo
from tests.support.trees import commit, files_of, of_repo, saved, write

pytestmark = pytest.mark.xdist_group("git")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    repo = make_repo(tmp_path / "repos" / "app")
    for number in range(20):
        commit(repo, name=f"file-{number}", text=os.urandom(500).hex())
    return repo


def cache_in(tmp_path: Path) -> Path:
    (cache,) = (tmp_path / "one" / "cache").glob("*.git")
    return cache


def emptied(cache: Path) -> None:
    for file in (cache / "objects").rglob("*"):
        if file.is_file():
            file.chmod(0o600)
            file.write_bytes(b"")


def cut(cache: Path) -> None:
    for file in (cache / "objects" / "pack").glob("*.pack"):
        file.chmod(0o600)
        os.truncate(file, file.stat().st_size // 2)


def flipped(cache: Path) -> None:
    for file in (cache / "objects" / "pack").glob("*.pack"):
        file.chmod(0o600)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)


def without_objects(cache: Path) -> None:
    shutil.rmtree(cache / "objects")


def without_index(cache: Path) -> None:
    for file in (cache / "objects" / "pack").glob("*.idx"):
        file.unlink()


def gone(cache: Path) -> None:
    shutil.rmtree(cache)


def half_made(cache: Path) -> None:
    (cache / "good").unlink()
    (cache / "HEAD").unlink()


DAMAGES: dict[str, Callable[[Path], None]] = {
    "emptied": emptied,
    "cut": cut,
    "a bit flipped": flipped,
    "without its objects": without_objects,
    "without an index": without_index,
    "gone": gone,
    "half made": half_made,
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_copy_is_made_anew_by_itself(
    spaces: Workspaces, repo: Path, tmp_path: Path, damage: str
) -> None:
    first = await spaces.prepare(of_repo(repo, 1))
    whole = tmp_path / "whole"
    shutil.copytree(first.path, whole)
    cache = cache_in(tmp_path)
    for folder in ("objects",):  # the damage of a disk, not of what is linked
        shutil.copytree(cache / folder, tmp_path / "apart")
        shutil.rmtree(cache / folder)
        (tmp_path / "apart").rename(cache / folder)
    DAMAGES[damage](cache)
    second = await spaces.prepare(of_repo(repo, 2))
    for tree in (first, second):
        assert git(tree.path, "fsck", "--strict") == ""
        write(tree)
        assert "new.txt" in files_of(repo, (await saved(spaces, tree)).commit)


async def test_terms_live_without_the_copy_and_without_the_source(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    git(repo, "checkout", "--quiet", "-b", "topic")
    commit(repo, name="topic.txt")
    git(repo, "checkout", "--quiet", "main")
    tree = await spaces.prepare(of_repo(repo, ref="topic"))
    git(repo, "branch", "--quiet", "-D", "topic")
    await spaces.prepare(of_repo(repo, 2))
    git(cache_in(tmp_path), "gc", "--quiet", "--prune=now")
    shutil.rmtree(tmp_path / "one" / "cache")
    shutil.rmtree(repo)
    assert git(tree.path, "fsck", "--strict") == ""
    commit(tree.path)
    git(tree.path, "repack", "-a", "-d", "-q")
    assert git(tree.path, "fsck", "--strict") == ""


PREPARE = """
import asyncio, sys
from pathlib import Path
from factory.workspace.workspaces import Workspaces
from tests.support.trees import of_repo
asyncio.run(Workspaces(Path(sys.argv[1]), {}).prepare(of_repo(sys.argv[2], int(sys.argv[3]))))
"""


async def test_several_processes_may_share_a_cold_cache(repo: Path, tmp_path: Path) -> None:
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", PREPARE, str(tmp_path / "one"), str(repo), str(epoch), cwd=Path.cwd()
        )
        for epoch in range(1, 6)
    ]
    assert [await process.wait() for process in started] == [0] * 5
    for epoch in range(1, 6):
        assert git(tmp_path / "one" / "trees" / "job1" / str(epoch) / "tree", "fsck") == ""


async def test_a_preparation_that_is_broken_off_anywhere_leaves_nothing(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    for steps in range(1, 30):
        preparing = asyncio.create_task(spaces.prepare(of_repo(repo, steps)))
        await asyncio.sleep(steps * 0.01)
        if preparing.done():
            break
        preparing.cancel()
        await asyncio.gather(preparing, return_exceptions=True)
        assert not list((tmp_path / "one" / "trees").glob("*/*"))
        assert not list((tmp_path / "one" / "cache").glob(".new-*"))
    tree = await spaces.prepare(of_repo(repo, 99))
    assert git(tree.path, "fsck", "--strict") == ""


async def test_a_shallow_source_a_big_base_and_what_upstream_moves_meanwhile(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    (repo / "big.bin").write_bytes(os.urandom(3_000_000))
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "big")
    shallow = tmp_path / "shallow.git"
    git(tmp_path, "clone", "--quiet", "--bare", "--depth=2", f"file://{repo}", str(shallow))
    for source in (repo, shallow):
        tree = await spaces.prepare(of_repo(source, job_id=f"of-{source.name.partition('.')[0]}"))
        mover = tmp_path / f"mover-{source.name}"
        git(tmp_path, "clone", "--quiet", f"file://{source}", str(mover))
        commit(mover, name="moved.txt")
        if source == shallow:
            git(mover, "push", "--quiet")
        else:
            commit(repo, name="moved.txt")
        write(tree)
        size = sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
        done = await saved(spaces, tree)
        grown = sum(file.stat().st_size for file in source.rglob("*") if file.is_file()) - size
        assert "new.txt" in files_of(source, done.commit)
        assert grown < 100_000, "the base is not sent again"


SENTENCES = {
    "no such thing": ({"ref": "nowhere"}, "ref: {url} has no branch, tag or commit 'nowhere'"),
    "a wrong commit": ({"ref": "0" * 40}, f"has no branch, tag or commit '{'0' * 40}'"),
}


@pytest.mark.parametrize("kind", SENTENCES)
async def test_a_ref_that_means_nothing_is_the_manifests_mistake(spaces: Workspaces, repo: Path, kind: str) -> None:
    fields, sentence = SENTENCES[kind]
    with pytest.raises(WorkspaceError) as refused:
        await spaces.prepare(of_repo(repo, **fields))
    assert sentence.format(url=repo) in str(refused.value)
    assert refused.value.fault == "manifest"


async def test_a_ref_may_be_a_branch_a_tag_a_full_name_or_a_commit(spaces: Workspaces, repo: Path) -> None:
    first = git(repo, "rev-parse", "HEAD~3")
    git(repo, "branch", "both", first)
    git(repo, "tag", "--annotate", "both", "--message", "x", "HEAD~1")
    meant = {
        "both": first,
        "heads/both": first,
        "refs/heads/both": first,
        "tags/both": git(repo, "rev-parse", "HEAD~1"),
        first: first,
        first[:9]: first,
    }
    for epoch, (ref, wanted) in enumerate(meant.items(), start=1):
        told: list[str] = []
        assert (await spaces.prepare(of_repo(repo, epoch, ref=ref), told.append)).base == wanted
        assert any("there is a tag both too" in line for line in told) is (ref == "both")


async def test_an_empty_repository_and_one_whose_head_names_nothing_are_told_apart(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.git"
    git(tmp_path, "init", "--quiet", "--bare", str(empty))
    with pytest.raises(WorkspaceError, match="is empty: there is no commit to start from"):
        await spaces.prepare(of_repo(empty))
    git(repo, "symbolic-ref", "HEAD", "refs/heads/unborn")
    with pytest.raises(WorkspaceError, match=r"its HEAD names no branch that exists; say ref: \(it has: main\)"):
        await spaces.prepare(of_repo(repo))
    assert (await spaces.prepare(of_repo(repo, ref="main"))).base


async def test_a_repository_of_sha256_works_too(spaces: Workspaces, tmp_path: Path) -> None:
    repo = tmp_path / "sha256"
    git(tmp_path, "init", "--quiet", "--object-format=sha256", "--initial-branch=main", str(repo))
    commit(repo, name="README.md")
    tree = await spaces.prepare(of_repo(repo))
    write(tree)
    done = await saved(spaces, tree)
    assert len(done.commit) == 64
    assert files_of(repo, done.commit) == {"README.md", "new.txt"}
    assert await spaces.clean_up(tree)
    assert (await spaces.prepare(of_repo(repo, 2))).base == tree.base
