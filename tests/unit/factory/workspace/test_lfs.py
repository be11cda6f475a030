"""The real Git LFS: whoever gets a commit of a job from its source gets the content of its large files there too."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from factory.ports import WorkspaceError
from factory.workspace.workspaces import Workspaces
from tests.support.terms import git
from tests.support.trees import of_repo, saved

pytestmark = [
    pytest.mark.xdist_group("git"),
    pytest.mark.skipif(shutil.which("git-lfs") is None, reason="git-lfs is not installed"),
]
CLEAN = ("-c", "filter.lfs.clean=git-lfs clean -- %f", "-c", "filter.lfs.smudge=git-lfs smudge -- %f")
LARGE = b"large " * 2000


def add_large(where: Path, name: str, content: bytes = LARGE) -> str:
    """Committed as an engine would; the object's id."""
    (where / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (where / name).write_bytes(content)
    git(where, *CLEAN, "add", "--all")
    git(where, *CLEAN, "commit", "--quiet", "--no-verify", "--message", f"large {name}")
    return hashlib.sha256(content).hexdigest()


def has_object(source: Path, oid: str) -> bool:
    return bool(list(source.rglob(f"lfs/objects/{oid[:2]}/{oid[2:4]}/{oid}")))


def plain_source(folder: Path, name: str = "source", *, large: bool = False) -> Path:
    made = folder / f"{name}-made"
    made.mkdir(parents=True)
    git(made, "init", "--quiet", "--initial-branch=main")
    (made / "README.md").write_text("words\n")
    git(made, "add", "--all")
    git(made, "commit", "--quiet", "--message", "the beginning")
    bare = folder / f"{name}.git"
    if large:
        add_large(made, "old.bin", b"old " * 1000)
    git(folder, "clone", "--quiet", "--bare", str(made), str(bare))
    if large:
        git(made, "remote", "add", "origin", str(bare))
        git(made, "lfs", "push", "--all", "origin")
    return bare


async def test_a_term_has_the_content_and_a_checkpoint_uploads_what_is_new(spaces: Workspaces, tmp_path: Path) -> None:
    source = plain_source(tmp_path, large=True)
    tree = await spaces.prepare(of_repo(source))
    assert (tree.path / "old.bin").read_bytes() == b"old " * 1000
    oid = add_large(tree.path, "new.bin")
    await saved(spaces, tree)
    assert has_object(source, oid)


async def test_a_file_that_is_not_committed_is_uploaded_too(spaces: Workspaces, tmp_path: Path) -> None:
    source = plain_source(tmp_path, large=True)
    tree = await spaces.prepare(of_repo(source))
    (tree.path / "left.bin").write_bytes(LARGE)
    done = await saved(spaces, tree)
    assert has_object(source, hashlib.sha256(LARGE).hexdigest())
    assert git(source, "show", f"{done.commit}:left.bin").startswith("version https://git-lfs")


async def test_a_job_may_begin_to_use_it(spaces: Workspaces, tmp_path: Path) -> None:
    source = plain_source(tmp_path)
    tree = await spaces.prepare(of_repo(source))
    oid = add_large(tree.path, "first.bin")
    await saved(spaces, tree)
    assert has_object(source, oid)


async def test_what_only_an_earlier_commit_has_is_uploaded(spaces: Workspaces, tmp_path: Path) -> None:
    source = plain_source(tmp_path)
    tree = await spaces.prepare(of_repo(source))
    oid = add_large(tree.path, "gone.bin")
    git(tree.path, "rm", "--quiet", "--force", "gone.bin", ".gitattributes")
    git(tree.path, "commit", "--quiet", "--message", "without it")
    await saved(spaces, tree)
    assert has_object(source, oid), "whoever checks that commit out needs it"


async def test_what_only_a_branch_beside_has_is_uploaded(spaces: Workspaces, tmp_path: Path) -> None:
    source = plain_source(tmp_path)
    tree = await spaces.prepare(of_repo(source))
    git(tree.path, "checkout", "--quiet", "-b", "side")
    oid = add_large(tree.path, "side.bin")
    git(tree.path, "rm", "--quiet", "--force", "side.bin", ".gitattributes")
    git(tree.path, "commit", "--quiet", "--message", "without it")
    git(tree.path, "checkout", "--quiet", "--force", tree.branch)
    await saved(spaces, tree)
    assert has_object(source, oid)


async def test_those_of_a_submodule_go_where_its_commits_go(spaces: Workspaces, tmp_path: Path) -> None:
    library = plain_source(tmp_path, "library")
    made = tmp_path / "source-made"
    source = plain_source(tmp_path)
    git(made, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "lib")
    git(made, "commit", "--quiet", "--message", "with a library")
    git(made, "push", "--quiet", str(source), "main")
    tree = await spaces.prepare(of_repo(source))
    oid = add_large(tree.path / "lib", "in-lib.bin")
    git(tree.path, "add", "lib")
    git(tree.path, "commit", "--quiet", "--message", "a newer library")
    done = await saved(spaces, tree)
    assert not has_object(library, oid), "not before it ships"
    await spaces.publish(tree, done.commit)
    assert has_object(library, oid)


async def test_without_git_lfs_a_machine_cannot_run_such_a_job(
    spaces: Workspaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = plain_source(tmp_path, large=True)
    bare_path = tmp_path / "programs"
    bare_path.mkdir()
    for program in ("git", "sh"):
        (bare_path / program).symlink_to(str(shutil.which(program)))
    monkeypatch.setenv("PATH", str(bare_path))
    with pytest.raises(WorkspaceError, match="uses Git LFS, and this machine has no git-lfs") as refused:
        await spaces.prepare(of_repo(source))
    assert refused.value.fault == "machine"
