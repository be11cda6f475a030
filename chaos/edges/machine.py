"""One life of a factory's process: the factory as it is, its coordinator at the other end of a pipe, its trees looked
at by somebody else before they are saved. Started by a fork server, so that a life is cheap and may be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import resource
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from chaos.edges import truth
from factory.link.port import Unanswered
from factory.link.rest import RestLink
from factory.main import Edges, Settings, run
from factory.opening import FencedSession
from factory.ports import Ended, Place, Saved, WorkspaceError, Worktree
from factory.process import EngineProcess
from factory.surroundings.sandbox import Mode
from factory.workspace.workspaces import Workspaces, say_nothing
from schemas.errors import ErrorCode, FleetError
from schemas.messages import Grant, LogChunk

FULL_AT_BYTES = 4096


@dataclass(frozen=True)
class Spec:
    """`environ`: what is in this process' environment besides. `full`: this many looks at a disk find it full."""

    machine: str
    data: str
    seats: int
    capabilities: tuple[str, ...]
    workspaces: tuple[tuple[str, str], ...]
    hidden: tuple[str, ...]
    sandbox: str
    environ: dict[str, str]
    full: int = 0
    mutation: str | None = None

    def settings(self) -> Settings:
        return Settings(
            factory_id=self.machine,
            data=Path(self.data),
            url="pipe",
            token="",
            capabilities=self.capabilities,
            seats=self.seats,
            workspaces=tuple((name, Path(path)) for name, path in self.workspaces),
            long_poll_s=2.0,
            checkpoint_every_s=0.4,
            drain_grace_s=5.0,
            detect=False,
            sandbox=Mode(self.sandbox),
            hidden=tuple(Path(path) for path in self.hidden),
        )


class Pipe:
    """Questions go over it, and what was seen; answers come back in any order."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    def start(self, on_order: Callable[[str], None]) -> None:
        def heard() -> None:
            try:
                while self._connection.poll():
                    kind, number, answer = self._connection.recv()
                    if kind == "order":
                        on_order(answer)
                    elif (waiting := self._waiting.pop(number, None)) is not None and not waiting.done():
                        waiting.set_result((kind, answer))
            except (EOFError, OSError):
                os._exit(1)  # there is no world any more

        asyncio.get_running_loop().add_reader(self._connection.fileno(), heard)

    async def ask(self, op: str, message: dict[str, Any]) -> Any:
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        self._connection.send(("ask", number, op, message))
        kind, answer = await self._waiting[number]
        if kind == "refused":
            code, sentence, detail = answer
            raise FleetError(ErrorCode(code), sentence, **detail)
        if kind == "unanswered":
            raise Unanswered(answer)
        return answer

    def tell(self, what: str, told: dict[str, Any]) -> None:
        self._connection.send(("seen", 0, what, told))


class PipeLink(RestLink):
    """Where REST would be."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    async def close(self) -> None: ...

    async def call(self, op: str, message: dict[str, Any]) -> dict[str, Any]:
        return dict(await self._pipe.ask(op, message))

    async def ended_jobs(self, job_ids: Sequence[str], for_s: float) -> Sequence[str]:
        return list(await self._pipe.ask("ended", {"jobIds": list(job_ids), "forS": for_s}))

    async def send_log(self, chunk: LogChunk) -> int:
        return int(await self._pipe.ask("log", chunk.to_doc()))


class SeenEngine(EngineProcess):
    """A program of a term; `on_end` is called when it has ended, before anybody else knows."""

    on_end: Callable[[], Awaitable[None]]

    async def wait(self) -> Ended:
        ended = await super().wait()
        await self.on_end()
        return ended


class SeenTrees(Workspaces):
    """`launch`: its first program in each tree is the engine; what that left is looked at once it has ended."""

    def __init__(
        self, root: Path, workspace_map: Mapping[str, Path], place: Place | None, *, pipe: Pipe, full: int
    ) -> None:
        super().__init__(root, workspace_map, place)
        self._pipe = pipe
        self._full = full
        self._made: dict[tuple[str, int], Worktree] = {}

    async def launch(self, argv: tuple[str, ...], **order: Any) -> SeenEngine:
        engine = await SeenEngine.start(argv, **order)
        env = order["env"]
        tree = self._made.pop((env["GIGAFACTORY_JOB"], int(env["GIGAFACTORY_EPOCH"])), None)

        async def look() -> None:
            if tree is not None:
                self._tell("left", tree, truth=await asyncio.to_thread(truth.of_tree, tree.path, tree.base))

        assert isinstance(engine, SeenEngine)
        engine.on_end = look
        return engine

    async def prepare(self, grant: Grant, progress: Callable[[str], None] = say_nothing) -> Worktree:
        with self._disk():
            tree = await super().prepare(grant, progress)
        seen = await asyncio.to_thread(truth.of_beginning, tree.path)
        self._made[tree.job_id, tree.lease_epoch] = tree
        self._tell("begun", tree, resumed=grant.checkpoint is not None, base=tree.base, beginning=seen)
        return tree

    async def save(self, tree: Worktree, message: str) -> Saved | None:
        with self._disk():
            return await super().save(tree, message)

    async def clean_up(self, tree: Worktree) -> bool:
        gone = await super().clean_up(tree)
        self._tell("tidied", tree, gone=gone)
        return gone

    async def quarantine(self, tree: Worktree, why: str) -> Path | None:
        kept = await super().quarantine(tree, why)
        self._tell("kept", tree, path=str(kept))
        return kept

    def _tell(self, what: str, tree: Worktree, **told: Any) -> None:
        self._pipe.tell(what, {"jobId": tree.job_id, "leaseEpoch": tree.lease_epoch, **told})

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        if self._full <= 0:
            yield
            return
        self._full -= 1
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_AT_BYTES, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def live(spec: Spec, connection: Connection) -> None:
    """The process, from its start to its end."""
    logging.basicConfig(
        filename=f"{spec.data}.log", level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    os.environ.update(spec.environ)
    with ExitStack() as stack:
        if spec.mutation is not None:
            from chaos.edges.mutations import MUTATIONS

            stack.enter_context(next(one for one in MUTATIONS if one.name == spec.mutation).on())
        with contextlib.suppress(FencedSession):
            asyncio.run(_live(spec, connection))


async def _live(spec: Spec, connection: Connection) -> None:
    pipe = Pipe(connection)
    loop = asyncio.get_running_loop()
    pipe.start(lambda order: os.kill(os.getpid(), 15) if order == "drain" else None)
    made: list[SeenTrees] = []

    def trees(root: Path, workspace_map: Mapping[str, Path], place: Place | None) -> SeenTrees:
        made.append(SeenTrees(root, workspace_map, place, pipe=pipe, full=spec.full))
        return made[0]

    async def launch(argv: tuple[str, ...], **order: Any) -> SeenEngine:
        return await made[0].launch(argv, **order)

    edges = Edges(rest_link=lambda _url, _token, _timeout_s: PipeLink(pipe), trees=trees, launch=launch)
    try:
        await run(spec.settings(), edges)
    except (FleetError, WorkspaceError) as error:
        pipe.tell("broke", {"why": str(error)})
    loop.remove_reader(connection.fileno())
