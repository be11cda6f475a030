"""What a repository has, by asking it once; and which commit a manifest's `ref` names there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from factory.git.environment import factory_env
from factory.git.run import GitError, git, run
from factory.git.urls import Reach
from factory.ports import Fault, WorkspaceError

ASK_SILENCE_S = 60.0
FLEET_HEADS = "refs/heads/fleet/"
NAMED = ("refs/heads/*", "refs/tags/*")
NAMED_MAX = 5  # branches in a sentence

_commit_id = re.compile(r"[0-9a-f]{7,64}")


@dataclass(frozen=True)
class RemoteRefs:
    """`default`: the full name of what HEAD is, None where it names no branch. `refs`: full name -> id, HEAD too, and
    `name^{}` for what an annotated tag points to.
    """

    default: str | None
    refs: dict[str, str]

    def wanted(self) -> dict[str, str]:
        """Those that a term is given: all but HEAD and the fleet's own branches."""
        return {
            name: commit
            for name, commit in self.refs.items()
            if name != "HEAD" and not name.endswith("^{}") and not name.startswith(FLEET_HEADS)
        }

    def some_branches(self) -> str:
        names = sorted(name.removeprefix("refs/heads/") for name in self.refs if name.startswith("refs/heads/"))
        return ", ".join(names[:NAMED_MAX]) + (", …" if len(names) > NAMED_MAX else "")


class Start(NamedTuple):
    """`branch`: the short name of the branch whose tip the commit is, if it was named as one."""

    commit: str
    branch: str | None


async def list_refs(reach: Reach, *more: str) -> RemoteRefs:
    """`more`: patterns besides branches and tags. Raises WorkspaceError.

    If this fails the manifest or the server is to blame; what fails after it has worked, fails because of this machine.
    """
    argv = ["git", "ls-remote", "--symref", "--", reach.url, "HEAD", *NAMED, *more]
    try:
        said = await run(argv, cwd=Path("/"), env=factory_env(reach.env), silence_s=ASK_SILENCE_S)
    except GitError as error:
        raise WorkspaceError(f"{reach.url}: {error}", Fault.REMOTE) from error
    default, refs = None, {}
    for line in os.fsdecode(said).splitlines():
        about, _, name = line.partition("\t")
        if about.startswith("ref: ") and name == "HEAD":
            default = about.removeprefix("ref: ")
        elif name:
            refs[name] = about
    if not refs:
        raise WorkspaceError(f"{reach.url} is empty: there is no commit to start from", Fault.MANIFEST)
    return RemoteRefs(default, refs)


async def resolve(ref: str | None, reach: Reach, there: RemoteRefs, cache: Path) -> Start:
    """`ref` by its exact name: a branch or a tag, `heads/…`, `tags/…`, `refs/…`, or the beginning of a commit id. Of a
    branch and a tag of one name it is the branch.
    """
    url = reach.url
    if ref is None or ref == "HEAD":
        return _head(url, there)
    if ref.startswith("-") or ":" in ref:
        raise WorkspaceError(f"ref: found {ref!r}; allowed is a branch, tag or commit", Fault.MANIFEST)
    candidates = _full_names(ref)
    found = [name for name in candidates if name in there.refs]
    if found:  # the branch, where there is a tag of its name too: work goes on from branches
        name = found[0]
        branch = name.removeprefix("refs/heads/") if name.startswith("refs/heads/") else None
        if name.startswith(FLEET_HEADS):  # these are not copied with the others
            argv = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", url, name)
            await git(cache, *argv, env=reach.env)
        return Start(there.refs.get(name + "^{}", there.refs[name]), branch)
    if _commit_id.fullmatch(ref) and (commit := await _commit(ref, reach, cache)):
        return Start(commit, None)
    raise WorkspaceError(f"ref: {url} has no branch, tag or commit {ref!r}", Fault.MANIFEST)


def also_a_tag(ref: str | None, there: RemoteRefs) -> str:
    """What is to be said where `ref` could have meant another."""
    both = ref is not None and {f"refs/heads/{ref}", f"refs/tags/{ref}"} <= there.refs.keys()
    return f" (the branch; there is a tag {ref} too, which tags/{ref} would be)" if both else ""


def _head(url: str, there: RemoteRefs) -> Start:
    if there.default in there.refs:
        return Start(there.refs[there.default], there.default.removeprefix("refs/heads/"))
    if "HEAD" in there.refs:
        return Start(there.refs["HEAD"], None)
    sentence = f"{url}: its HEAD names no branch that exists; say ref: (it has: {there.some_branches()})"
    raise WorkspaceError(sentence, Fault.MANIFEST)


def _full_names(ref: str) -> list[str]:
    if ref.startswith("refs/"):
        return [ref]
    if ref.startswith(("heads/", "tags/")):
        return [f"refs/{ref}"]
    return [f"refs/heads/{ref}", f"refs/tags/{ref}"]


async def _commit(ref: str, reach: Reach, cache: Path) -> str | None:
    try:
        return await git(cache, "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
    except GitError as error:
        if "ambiguous" in str(error):
            sentence = f"ref: {ref} is the beginning of several commits of {reach.url}; write more of it"
            raise WorkspaceError(sentence, Fault.MANIFEST) from error
    if len(ref) < 40:
        return None
    try:  # a commit that no branch or tag has any more: some servers give it all the same
        await git(cache, "fetch", "--quiet", "--no-tags", "--", reach.url, ref, env=reach.env)
    except GitError:
        return None
    return ref
