"""Where a grant's repository is: a URL, a folder that its `cwd` maps to, or nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from factory.git.run import git
from factory.git.urls import Reach, reach_of
from factory.ports import Fault, WorkspaceError
from schemas.messages import Grant
from schemas.work import path_within

ORIGIN, WORKSPACE = "origin", "workspace"


def named_folder(text: str) -> tuple[str, Path]:
    """`NAME=PATH`: a folder of this machine, and how manifests call it. Raises ValueError."""
    name, sep, path = text.partition("=")
    if not sep or not name.startswith("/"):
        raise ValueError(f"--workspace {text}: write /path/as/in/manifests=/folder/here")
    if not Path(path).is_dir():
        raise ValueError(f"--workspace {text}: there is no folder {path}")
    return name, Path(path).resolve()


@dataclass(frozen=True)
class Source:
    """`remote`: what the term calls it. `inside`: the folder in it that the work is about. `folder`: a person works
    there too, and has remotes of their own, which the term gets as well.
    """

    reach: Reach
    remote: str
    inside: Path = Path()
    folder: Path | None = None

    @property
    def url(self) -> str:
        return self.reach.url


async def source_of(grant: Grant, workspace_map: Mapping[str, Path]) -> Source | None:
    """None: an empty tree is wanted. `workspace_map`: longest root first. Raises WorkspaceError and GitError."""
    if grant.repo is not None:
        if grant.repo.startswith("-"):
            raise WorkspaceError(f"repo: found {grant.repo!r}; allowed is a path or URL", Fault.MANIFEST)
        return Source(reach_of(grant.repo), ORIGIN)
    if grant.cwd is None:
        return None
    for root, here in workspace_map.items():
        below = path_within(root, grant.cwd)
        if below is None:
            continue
        folder = (here / below).resolve()
        if not folder.is_relative_to(here):
            raise WorkspaceError(f"cwd: {grant.cwd} leads out of the workspace {root}", Fault.MANIFEST)
        if not folder.is_dir():
            raise WorkspaceError(f"cwd: {grant.cwd}: there is no such folder on this machine", Fault.MACHINE)
        within = {"GIT_CEILING_DIRECTORIES": str(here.parent)}
        top = Path(await git(folder, "rev-parse", "--show-toplevel", env=within))
        return Source(Reach(str(top), {}), WORKSPACE, folder.relative_to(top), top)
    raise WorkspaceError(f"cwd: no workspace of this factory maps {grant.cwd}", Fault.MACHINE)
