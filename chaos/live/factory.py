"""`python -m chaos.live.factory FILE`: real factories that write down what they ask, and what becomes of their trees.

FILE holds a JSON list of specs. One spec is a factory in a process of its own; many are a hive, which is how hundreds
of factories with a connection each fit on one machine.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson

from bus.port import Bus
from chaos.live.recorder import Recorder
from chaos.recording import AskRecorder, Message, Note, NotedBusLink
from factory.git.run import GitError, git
from factory.link.rest import RestLink
from factory.main import EXIT_FENCED, Edges, Settings, make_bus, run
from factory.opening import FencedSession
from factory.ports import Place, RunningEngine, Saved, Worktree
from factory.process import EngineProcess
from factory.surroundings.sandbox import chosen
from factory.workspace.workspaces import Workspaces, say_nothing
from schemas.messages import Grant
from schemas.work import Engine


@dataclass(frozen=True)
class FactorySpec:
    """One factory and where its part of the history goes. `life`: unique among all processes of the run."""

    factory_id: str
    life: int
    data: str
    url: str
    token_file: str
    bus_url: str
    bus_seed_file: str
    capabilities: tuple[str, ...]
    seats: int
    long_poll_s: float
    checkpoint_every_s: float
    record: str
    began_s: float
    takeover: bool = False

    @property
    def who(self) -> str:
        return f"factory:{self.factory_id}"

    def settings(self) -> Settings:
        return Settings(
            factory_id=self.factory_id,
            data=Path(self.data),
            url=self.url,
            token=Path(self.token_file).read_text().strip(),
            bus_url=self.bus_url,
            bus_seed=Path(self.bus_seed_file).read_text().strip(),
            capabilities=tuple(self.capabilities),
            seats=self.seats,
            takeover=self.takeover,
            long_poll_s=self.long_poll_s,
            checkpoint_every_s=self.checkpoint_every_s,
            drain_grace_s=5.0,
            detect=False,
            sandbox=chosen(None)[0],
        )


class NotedRestLink(RestLink):
    def __init__(self, url: str, token: str, timeout_s: float, who: str, ask_recorder: AskRecorder) -> None:
        super().__init__(url, token, timeout_s)
        self._who = who
        self._ask_recorder = ask_recorder

    async def call(self, op: str, message: Message) -> Message:
        return await self._ask_recorder.noted(
            self._who, op, "rest", message, lambda: super(NotedRestLink, self).call(op, message)
        )


class NotedTrees(Workspaces):
    """Looks at a tree and its remote with git itself, not by what the factory believes of them."""

    def __init__(
        self,
        root: Path,
        workspace_map: Mapping[str, Path],
        place: Place | None = None,
        *,
        spec: FactorySpec,
        note: Note,
    ) -> None:
        super().__init__(root, workspace_map, place)
        self._spec = spec
        self._note_it = note

    def _tell(self, tree: Worktree, does: str, **data: object) -> None:
        self._note_it(
            "tree", self._spec.who, does=does, life=self._spec.life, jobId=tree.job_id, leaseEpoch=tree.lease_epoch,
            **data,
        )  # fmt: skip

    async def prepare(self, grant: Grant, progress: Callable[[str], None] = say_nothing) -> Worktree:
        tree = await super().prepare(grant, progress)
        self._tell(tree, "made", base=tree.base)
        return tree

    async def save(self, tree: Worktree, message: str) -> Saved | None:
        saved = await super().save(tree, message)
        if saved is not None:
            self._tell(tree, "pushed", ref=saved.ref, commit=saved.commit, local=saved.local)
        return saved

    async def publish(self, tree: Worktree, saved_commit: str) -> str | None:
        branch = await super().publish(tree, saved_commit)
        if branch is not None:
            self._tell(tree, "published", branch=branch, commit=saved_commit)
        return branch

    async def clean_up(self, tree: Worktree) -> bool:
        """A tree without a remote is put by, not deleted."""
        if tree.remote is None or not tree.path.exists():
            return await super().clean_up(tree)
        clean, pushed = await _is_clean(tree), await _is_pushed(tree)
        gone = await super().clean_up(tree)
        if gone:
            self._tell(tree, "deleted", clean=clean, pushed=pushed)
        return gone

    async def quarantine(self, tree: Worktree, why: str) -> Path | None:
        kept = await super().quarantine(tree, why)
        if kept is not None:
            self._tell(tree, "quarantined")
        return kept


async def _is_clean(tree: Worktree) -> bool:
    """Every file of it is, byte for byte, in what its ref points to; what git ignores is no part of the work.

    By a copy of its index, which also knows what was added by force. A repository inside is taken for unclean.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            env = {"GIT_INDEX_FILE": str(Path(folder) / "index"), **_seeing(tree)}
            index = tree.path / await git(tree.path, "rev-parse", "--git-path", "index")
            if index.exists():
                shutil.copy(index, env["GIT_INDEX_FILE"])
            await git(tree.path, "add", "--all", "--intent-to-add", env=env)
            return not await git(tree.path, "diff", "--name-only", await _ref_of(tree), env=env)
    except GitError:
        return False


async def _is_pushed(tree: Worktree) -> bool:
    """The remote has HEAD and every other commit that a branch, a tag or the stash of it names."""
    try:
        argv = ("rev-list", "--max-count=1", "HEAD", "--all", "--not", await _ref_of(tree), "--remotes")
        return not await git(tree.path, *argv, env=_seeing(tree))
    except GitError:
        return False


def _seeing(tree: Worktree) -> dict[str, str]:
    """The objects that the remote has, beside those of the tree."""
    assert tree.remote is not None
    bare = Path(tree.remote) / "objects"
    return {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(bare if bare.is_dir() else Path(tree.remote) / ".git" / "objects")}


async def _ref_of(tree: Worktree) -> str:
    """What the remote's ref of this term points to, or what the term began with where nothing was ever pushed."""
    assert tree.remote is not None
    found = await git(tree.path, "ls-remote", "--", tree.remote, tree.ref)
    return found.split()[0] if found else tree.base


def edges_of(spec: FactorySpec, note: Note) -> Edges:
    ask_recorder = AskRecorder(note, prefix=f"{spec.factory_id}/{spec.life}/")
    session = {"CHAOS_LIFE": str(spec.life), "CHAOS_FACTORY": spec.factory_id}

    def bus(settings: Settings, session_id: str) -> Bus:
        session["CHAOS_SESSION"] = session_id
        note(
            "up", spec.who, life=spec.life, seats=spec.seats, engines=[Engine.SHELL],
            capabilities=list(spec.capabilities), sessionId=session_id,
        )  # fmt: skip
        return make_bus(settings, session_id)

    async def launch(
        argv: tuple[str, ...],
        *,
        cwd: Path,
        env: Mapping[str, str],
        control: Path,
        deadline_s: float,
        on_output: Callable[[bytes], None],
        around: tuple[str, ...] = (),
    ) -> RunningEngine:
        """So that an engine can say whose it is (see `engines`)."""
        return await EngineProcess.start(
            argv,
            cwd=cwd,
            env={**env, **session},
            control=control,
            deadline_s=deadline_s,
            on_output=on_output,
            around=around,
        )

    return Edges(
        bus=bus,
        bus_link=partial(NotedBusLink, ask_recorder=ask_recorder),
        rest_link=partial(NotedRestLink, who=spec.who, ask_recorder=ask_recorder),
        trees=partial(NotedTrees, spec=spec, note=note),
        launch=launch,
    )


async def live(specs: list[FactorySpec]) -> None:
    recorder = Recorder(Path(specs[0].record), specs[0].began_s)
    await asyncio.gather(*(run(spec.settings(), edges_of(spec, recorder.note)) for spec in specs))


def main() -> None:
    specs = [FactorySpec(**one) for one in orjson.loads(Path(sys.argv[1]).read_bytes())]
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        asyncio.run(live(specs))
    except FencedSession as error:
        logging.error("%s", error)
        sys.exit(EXIT_FENCED)


if __name__ == "__main__":
    main()
