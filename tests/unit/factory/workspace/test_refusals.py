"""Where a tree cannot or must not be made, the refusal is a sentence, and nothing is left behind or run."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.ports import WorkspaceError
from factory.workspace.workspaces import Workspaces
from schemas.work import Checkpoint
from tests.support.terms import NOW, checkpoint, git, grant, make_repo, refs

pytestmark = pytest.mark.xdist_group("git")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "src" / "app", {"README.md": "hello\n", "web/index.html": "<p>\n"})


@pytest.fixture
def spaces(tmp_path: Path, repo: Path) -> Workspaces:
    return Workspaces(tmp_path / "one", {"/code": tmp_path / "src"})


def trees(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "one" / "trees").glob("*/*"))


async def refused(spaces: Workspaces, **fields: object) -> str:
    with pytest.raises(WorkspaceError) as error:
        await spaces.prepare(grant(**fields))
    return str(error.value)


async def test_a_repository_that_does_not_exist_is_named(spaces: Workspaces, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert nowhere in await refused(spaces, repo=nowhere)
    assert trees(tmp_path) == []


async def test_a_ref_that_does_not_exist_is_named(spaces: Workspaces, repo: Path, tmp_path: Path) -> None:
    assert "no-such-branch" in await refused(spaces, repo=str(repo), ref="no-such-branch")
    assert trees(tmp_path) == []


@pytest.mark.parametrize("ref", ["--upload-pack=touch {0}", "-u", "main:refs/heads/evil", "--exec=touch {0}"])
async def test_a_ref_that_git_could_take_for_an_option_is_refused(
    spaces: Workspaces, repo: Path, tmp_path: Path, ref: str
) -> None:
    said = await refused(spaces, repo=str(repo), ref=ref.format(tmp_path / "run"))
    assert "allowed is a branch, tag or commit" in said
    assert not (tmp_path / "run").exists()
    assert set(refs(repo)) == {"refs/heads/main"}


@pytest.mark.parametrize("repo_text", ["--upload-pack=touch {0}", "-c", "ext::sh -c touch% {0}"])
async def test_a_repo_that_git_could_take_for_an_option_or_a_program_is_refused(
    spaces: Workspaces, tmp_path: Path, repo_text: str
) -> None:
    await refused(spaces, repo=repo_text.format(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("ref", "commit"),
    [
        ("--upload-pack=touch {0}", "a" * 40),
        ("refs/heads/main", "a" * 40),
        ("refs/gigafactory/job1/1:refs/heads/main", "a" * 40),
        ("refs/gigafactory/job1/1", "--force"),
    ],
)
@pytest.mark.parametrize("scratch", [False, True])
async def test_a_checkpoint_that_another_factory_made_up_runs_nothing_here(
    spaces: Workspaces, repo: Path, tmp_path: Path, ref: str, commit: str, scratch: bool
) -> None:
    said = Checkpoint.model_construct(ref=ref.format(tmp_path / "run"), commit=commit, at=NOW)  # past every schema
    where = {} if scratch else {"repo": str(repo)}
    assert "allowed is a commit under refs/gigafactory" in await refused(
        spaces, lease_epoch=2, checkpoint=said, **where
    )
    assert not (tmp_path / "run").exists()
    assert trees(tmp_path) == []


async def test_a_checkpoint_that_is_gone_is_said_to_be(spaces: Workspaces, repo: Path) -> None:
    said = await refused(
        spaces, lease_epoch=2, repo=str(repo), checkpoint=checkpoint("refs/gigafactory/job1/1", "a" * 40)
    )
    assert "refs/gigafactory/job1/1" in said


async def test_cwd_leads_through_the_map_to_the_same_folder_of_a_tree_of_its_own(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    top = await spaces.prepare(grant(cwd="/code/app"))
    inside = await spaces.prepare(grant("job2", cwd="/code/app/web"))
    assert top.work_dir == top.path == tmp_path / "one" / "trees" / "job1" / "1" / "tree"
    assert inside.work_dir == inside.path / "web"
    (inside.work_dir / "new.html").write_text("<p>\n")
    saved = await spaces.save(inside, "checkpoint")
    assert saved is not None
    assert saved.local
    assert "web/new.html" in git(repo, "ls-tree", "-r", "--name-only", saved.commit).splitlines()
    assert not (repo / "web" / "new.html").exists()
    assert git(repo, "status", "--porcelain") == ""


async def test_the_longest_root_of_the_map_decides(tmp_path: Path, repo: Path) -> None:
    other = make_repo(tmp_path / "elsewhere", {"special.txt": "x\n"})
    spaces = Workspaces(tmp_path / "one", {"/code": tmp_path / "src", "/code/app": other})
    assert ((await spaces.prepare(grant(cwd="/code/app"))).path / "special.txt").exists()
    assert spaces.roots == ("/code", "/code/app")


@pytest.mark.parametrize("cwd", ["/etc", "/codex/app", "/code/../secret", "/code/app/../../secret", "code/app"])
async def test_a_path_outside_the_map_is_refused(spaces: Workspaces, tmp_path: Path, cwd: str) -> None:
    make_repo(tmp_path / "secret")
    said = await refused(spaces, cwd=cwd)
    assert cwd in said
    assert "workspace" in said
    assert trees(tmp_path) == []


async def test_a_link_that_leads_out_of_the_map_is_refused(spaces: Workspaces, tmp_path: Path) -> None:
    make_repo(tmp_path / "secret")
    (tmp_path / "src" / "link").symlink_to(tmp_path / "secret")
    assert "leads out of the workspace /code" in await refused(spaces, cwd="/code/link")


async def test_a_link_in_the_commit_that_leads_out_of_the_tree_is_refused(
    spaces: Workspaces, repo: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    (repo / "out").symlink_to(tmp_path / "secret")
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message", "a link")
    (repo / "out").unlink()
    (repo / "out").mkdir()
    assert "no such folder" in await refused(spaces, cwd="/code/app/out")
    assert trees(tmp_path) == []


async def test_a_folder_that_is_not_there_is_named(spaces: Workspaces, repo: Path, tmp_path: Path) -> None:
    assert "/code/app/missing" in await refused(spaces, cwd="/code/app/missing")
    (repo / "uncommitted").mkdir()
    assert "no such folder at HEAD" in await refused(spaces, cwd="/code/app/uncommitted")
    assert trees(tmp_path) == []


async def test_a_folder_in_no_repository_is_refused_and_one_around_the_map_is_not_entered(
    spaces: Workspaces, tmp_path: Path
) -> None:
    (tmp_path / "src" / "plain").mkdir()
    assert "not a git repository" in await refused(spaces, cwd="/code/plain")
    git(tmp_path, "init", "--quiet")
    assert "not a git repository" in await refused(spaces, cwd="/code/plain")
