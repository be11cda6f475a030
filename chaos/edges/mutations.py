"""The hands of a factory broken on purpose, one way at a time: each must be seen from outside."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chaos.mutation import Mutation, Patch
from factory import credentials, process
from factory import term as term_module
from factory.git import run as git_run
from factory.git.environment import factory_env
from factory.ports import Worktree
from factory.surroundings import sandbox, surroundings, variables
from factory.surroundings.sandbox import Sandbox
from factory.term import SavedWork, Term, Work
from factory.workspace import bundles, cache, looking, preparing, publishing, snapshot, term_repository, workspaces
from factory.workspace.cache import Caches
from factory.workspace.reading import Refs
from factory.workspace.snapshot import Snapshots, WorkTree
from factory.workspace.term_repository import TermRepository
from factory.workspace.workspaces import Workspaces
from schemas.outcome import Outcome, Result


def shared_mirror(replace: Patch) -> None:
    """A term has what every other job of its source has saved so far."""
    before = term_repository.clone

    async def clone(term: TermRepository, *rest: Any) -> None:
        await before(term, *rest)
        everything = "+refs/gigafactory/*:refs/gigafactory/*"
        await git_run.git(term.path, "fetch", "--quiet", "--", term.reach.url, everything, env=term.reach.env)

    replace(preparing, "clone", clone)


def snapshot_after_verify(replace: Patch) -> None:
    before = Term._publish

    async def publish(self: Term, work: Work, saved: SavedWork, *rest: Any) -> Any:
        work.over, work.tree.settled = False, False
        later = await self._save(work)
        return await before(self, work, later or saved, *rest)

    replace(Term, "_publish", publish)


def names_replaced(replace: Patch) -> None:
    """Names are decoded as text that anybody could have meant."""
    take = snapshot._take_links

    async def git(cwd: Path, *args: str, **more: Any) -> str:
        out = await git_run.run(["git", *args], cwd=cwd, env=factory_env(more.get("env")), **_rest(more))
        return out.decode(errors="replace").strip("\n")

    def _rest(more: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in more.items() if name in ("stdin", "ok")}

    async def add_all(top: Path, env: Mapping[str, str], folder: Path) -> tuple[str, ...]:
        await take(top, env)
        names = (await git(top, "ls-files", "--others", "--exclude-standard", "-z", env=env)).split("\0")
        there = _that_exist(top, names)
        told = os.fsencode("\0".join([*there, "."] if not names else there or ["."]))
        await git(top, "add", "--update", env=env)
        await git(top, "add", "--pathspec-from-file=-", "--pathspec-file-nul", env=env, stdin=told)
        return ()

    replace(snapshot, "add_all", add_all)


def _that_exist(top: Path, names: Sequence[str]) -> list[str]:
    return [name for name in names if name and os.path.lexists(top / name)]


def only_head(replace: Patch) -> None:
    replace(looking, "_refs_beside", lambda _term, _git_dir, _left: {})


def no_stashes(replace: Patch) -> None:
    replace(looking, "stashes", lambda _git_dir: [])
    replace(looking, "NOT_BESIDE", ("refs/remotes/", "refs/stash", "refs/resume/", "refs/bisect/"))
    before = looking._refs_beside

    def without(term: Any, git_dir: Path, left: Refs) -> dict[str, str]:
        return {name: commit for name, commit in before(term, git_dir, left).items() if not name.startswith("stash")}

    replace(looking, "_refs_beside", without)


def no_worktrees(replace: Patch) -> None:
    replace(looking, "linked_worktrees", lambda _git_dir, _refs: iter(()))
    replace(workspaces, "_beside_the_tree", lambda _folder, _saved: ())


def no_bundles(replace: Patch) -> None:
    async def bundle_inside(_term: Any, _tmp: Path, _tips: Sequence[str]) -> bundles.Bundles:
        return bundles.Bundles(None, "", ())

    replace(looking, "bundle_inside", bundle_inside)


def index_ignored(replace: Patch) -> None:
    """Neither what the engine hid nor what it added by force is seen."""

    async def copy_index(self: Snapshots, work: WorkTree, env: Mapping[str, str]) -> None:
        await git_run.git(work.path, "read-tree", work.head, env=env)

    replace(Snapshots, "_copy_index", copy_index)


def excludes_ignored(replace: Patch) -> None:
    before = Snapshots._add_steadily

    async def add(self: Snapshots, work: WorkTree, env: Mapping[str, str], folder: Path) -> tuple[str, ...]:
        (self._term.vault / "info" / "exclude").write_bytes(b"")
        return await before(self, work, env, folder)

    replace(Snapshots, "_add_steadily", add)


def tree_removed_unsaved(replace: Patch) -> None:
    async def clean_up(self: Workspaces, tree: Worktree) -> bool:
        term = workspaces._of(tree)
        if term.folder.exists():
            self._sweep_later(term.folder)
        return True

    replace(Workspaces, "clean_up", clean_up)


def last_save_forgotten(replace: Patch) -> None:
    async def save_last(self: Work, message: str) -> None:
        return None

    replace(Work, "save_last", save_last)


def engines_config(replace: Patch) -> None:
    """The factory's git works under the configuration that the engine left."""
    before = git_run.git

    async def git(cwd: Path, *args: str, env: Mapping[str, str] | None = None, **more: Any) -> str:
        env = dict(env or {})
        if env.get("GIT_DIR", "").endswith("vault.git") and args[0] in ("add", "write-tree", "ls-files"):
            tree = Path(env["GIT_DIR"]).parent / "tree" / ".git"
            if tree.is_dir():
                env["GIT_OBJECT_DIRECTORY"] = str(Path(env["GIT_DIR"]) / "objects")
                env["GIT_DIR"] = str(tree)
        return await before(cwd, *args, env=env, **more)

    replace(snapshot, "git", git)


def secrets_passed(replace: Patch) -> None:
    replace(surroundings, "helper_env", credentials.helper_env)
    replace(variables, "_is_passed", lambda _name, _patterns: True)


def git_dir_passed(replace: Patch) -> None:
    def passed(name: str, _patterns: Sequence[str]) -> bool:
        return name in ("PATH", "HOME") or name.startswith("GIT_")

    replace(variables, "_is_passed", passed)


def nothing_hidden(replace: Patch) -> None:
    replace(sandbox, "_outermost", lambda _paths: [])


def place_not_asked(replace: Patch) -> None:
    replace(Sandbox, "around", lambda _self, _tree, _folders, network: ())


def children_live_on(replace: Patch) -> None:
    """A launcher ends the process that it started, and nothing that came of it."""
    text = process.LAUNCHER.read_text(encoding="utf-8")
    text = text.replace("os.killpg(self.process.pid, number)", "self.process.send_signal(number)")
    text = text.replace("for pid in descendants(os.getpid()):", "for pid in ():")
    text = text.replace("or bool(descendants(os.getpid()))", "")
    broken = Path(tempfile.mkdtemp(prefix="launcher-")) / "launcher.py"
    broken.write_text(text, encoding="utf-8")
    replace(process, "LAUNCHER", broken)
    replace(Sandbox, "around", lambda _self, _tree, _folders, network: ())  # which would end them all the same


def machine_blames_engine(replace: Patch) -> None:
    def blameless(why: str, *, anywhere: bool) -> Any:
        return term_module.TermEnd(Result(outcome=Outcome.ENGINE_FAILED, summary=why))

    replace(term_module, "_blameless", blameless)


def cache_believed(replace: Patch) -> None:
    """A damaged copy of a source is taken as it is, and never made anew."""

    async def stay(*_: Any) -> None: ...

    replace(cache, "check_packs", lambda _repository, known: dict(known))
    replace(Caches, "discard", stay)
    replace(Caches, "_clear", staticmethod(stay))


def reason_cut(replace: Patch) -> None:
    replace(git_run, "_error", lambda name, _said: f"{name}: failed")


def damaged_index_obeyed(replace: Patch) -> None:
    async def copy_index(self: Snapshots, work: WorkTree, env: Mapping[str, str]) -> None:
        shutil.copy(work.index, env["GIT_INDEX_FILE"])

    replace(Snapshots, "_copy_index", copy_index)


def folder_written(replace: Patch) -> None:
    """With `cwd`, the branch of a term is checked out in the person's own folder."""
    before = publishing.publish

    async def publish(term: Any, commit: str) -> str:
        branch = await before(term, commit)
        if (Path(term.reach.url) / ".git").is_dir():
            (Path(term.reach.url) / "README.md").write_text("of the fleet\n")
        return branch

    replace(publishing, "publish", publish)


FAILING = ("fails",)  # jobs whose first attempt fails: the next one begins when there is something of others

MUTATIONS: tuple[Mutation, ...] = (
    Mutation("shared-mirror", "16", "a term has what every other job of its source has saved", shared_mirror, FAILING),
    Mutation("snapshot-after-verify", "14", "what verify left is shipped", snapshot_after_verify, ("leave",)),
    Mutation("names-replaced", "14", "names that are no UTF-8 are lost", names_replaced, ("odd-names",)),
    Mutation("only-head", "14", "branches and tags beside HEAD are not saved", only_head, ("branch", "tags")),
    Mutation("no-stashes", "14", "stashes are not saved", no_stashes, ("stash",)),
    Mutation("no-worktrees", "14", "linked worktrees are not saved", no_worktrees, ("worktree",)),
    Mutation("no-bundles", "14", "repositories inside are not saved", no_bundles, ("inner",)),
    Mutation("index-ignored", "14", "what the engine hid is published", index_ignored, ("hidden",)),
    Mutation("excludes-ignored", "14", "what .git/info/exclude hides is published", excludes_ignored, ("excluded",)),
    Mutation("removed-unsaved", "14", "a tree is removed whatever is in it", tree_removed_unsaved, ("no-git",)),
    Mutation("last-save-forgotten", "14", "a failed engine's work is not saved", last_save_forgotten, ("commit",)),
    Mutation("engines-config", "16", "git obeys what the engine configured", engines_config, ("evil-config",)),
    Mutation("secrets-passed", "16", "engines get the factory's whole environment", secrets_passed),
    Mutation("git-dir-passed", "16", "GIT_DIR of the factory reaches engines", git_dir_passed),
    Mutation("nothing-hidden", "16", "the sandbox hides nothing", nothing_hidden),
    Mutation("no-sandbox", "16", "programs run outside the sandbox", place_not_asked),
    Mutation("children-live-on", "16", "what an engine left running goes on", children_live_on, ("background",)),
    Mutation("machine-blames-engine", "17", "a machine's fault is a job's", machine_blames_engine, ("broken-disk",)),
    Mutation("cache-believed", "17", "a damaged copy is taken as it is", cache_believed, ("damage",)),
    Mutation("reason-cut", "17", "a server's reason is not told", reason_cut, ("refuse",)),
    Mutation("damaged-index-obeyed", "17", "a broken index fails the term", damaged_index_obeyed, ("index-broken",)),
    Mutation("folder-written", "16", "a person's folder is changed", folder_written),
)  # fmt: skip
