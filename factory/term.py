"""One term from grant to acknowledged report: workspace, engine, checkpoints, verification, evidence.

Whatever ends it, the engine is dead before the report is written, and nothing is pushed once trust is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory.credentials import helper_env
from factory.engines.port import EngineAdapter, EngineRefusal
from factory.git import GitError
from factory.ports import Launch, RunningEngine, Trees
from factory.process import Ended, engine_env
from factory.term_log import SendChunk, TermLog
from factory.term_state import OUTCOME_OF, EndReason, TermState
from factory.workspace import Saved, WorkspaceError, Worktree
from runtime.clock import Clock
from schemas.messages import Grant
from schemas.outcome import Outcome, Result, VerifyEvidence
from schemas.projections import Insights
from schemas.work import Checkpoint

log = logging.getLogger(__name__)

SUMMARY_CHARS = 2000
VERIFY_TAIL_CHARS = 2000
LOOK_S = 1.0


@dataclass(frozen=True)
class TermEnd:
    """What is to be said of the term: a report, or a release (`release` True)."""

    result: Result
    release: bool = False
    insights: Insights = field(default_factory=Insights)
    checkpoint: Checkpoint | None = None


@dataclass
class Tools:
    clock: Clock
    workspaces: Trees
    launch: Launch
    adapter: EngineAdapter
    scratch: Path
    factory_id: str
    session_id: str
    checkpoint_every_s: float
    send_log: SendChunk
    save_checkpoint: Callable[[TermState, Saved], Awaitable[None]]


class Term:
    """Driven by `run`; `poke` makes it look at its session again (a stop, a renewal, a drain)."""

    def __init__(self, state: TermState, tools: Tools) -> None:
        self.state = state
        self._tools = tools
        self._poked = asyncio.Event()
        self._tree: Worktree | None = None
        self._log: TermLog | None = None
        self._saved: Saved | None = None
        self._evidence: list[VerifyEvidence] = []

    @property
    def grant(self) -> Grant:
        return self.state.grant

    def poke(self) -> None:
        self._poked.set()

    async def run(self) -> TermEnd:
        """Never raises for what a job can cause: that is an outcome."""
        self._log = TermLog(self._tools.scratch / "log", self.grant, self._tools.session_id, self._tools.send_log)
        try:
            return await self._run()
        finally:
            await self._log.close()

    async def tidy(self, *, superseded: bool) -> None:
        """After the report: a tree that is pushed whole goes; a fenced one, or one with more in it, is kept."""
        try:
            if self._tree is not None and (superseded or not await self._tools.workspaces.clean_up(self._tree)):
                kept = await self._tools.workspaces.quarantine(self._tree)
                log.info("the tree of %s is kept in %s", self.grant.job_id, kept)
        except (GitError, OSError) as error:
            log.warning("the tree of %s stays where it is: %s", self.grant.job_id, error)
        shutil.rmtree(self._tools.scratch, ignore_errors=True)

    async def _run(self) -> TermEnd:
        reason = self.state.must_end(self._now())
        if reason is not None:  # it came too late, or is wanted back already: no tree is made for it
            return await self._ended_early(reason)
        try:
            self._tools.scratch.mkdir(parents=True, exist_ok=True)
            self._tree = await self._tools.workspaces.prepare(self.grant)
            command = self._tools.adapter.command(self.grant, self._tools.scratch)
        except (WorkspaceError, EngineRefusal, OSError) as error:
            return self._failed(str(error))
        reason = self.state.must_end(self._now())
        if reason is not None:
            return await self._ended_early(reason)
        ended, reason = await self._engine(command.argv, command.env, checkpoints=True)
        if reason is not None:
            return await self._ended_early(reason)
        if ended.rc != 0:
            return self._failed(self._how(ended), await self._save_last("work of a failed engine"))
        return await self._verified()

    async def _verified(self) -> TermEnd:
        """Always in the same term: executed, claimed and verified are different things."""
        for command in self.grant.verify:
            assert self._log is not None
            before = self._log.heard
            ended, reason = await self._engine(("sh", "-c", command), {}, checkpoints=False)
            if reason is not None:
                return await self._ended_early(reason)
            tail = self._log.tail(since=before)[-VERIFY_TAIL_CHARS:]
            evidence = VerifyEvidence(command=command, rc=ended.rc, tail=tail)
            self._evidence.append(evidence)
            if ended.rc != 0:
                return await self._finished(Outcome.VERIFY_FAILED, f"verify failed with {ended.rc}: {command}")
        return await self._finished(Outcome.OK, self._tail()[-SUMMARY_CHARS:])

    async def _finished(self, outcome: Outcome, summary: str) -> TermEnd:
        assert self._tree is not None
        branch, diff, commit, checkpoint = None, {}, None, None
        try:
            checkpoint = await self._save_last("finished work" if outcome is Outcome.OK else "work so far")
            if checkpoint is None and not await self._tools.workspaces.is_saved(self._tree):
                return self._failed("the work could not be pushed; its tree is kept")
            commit = self._saved.commit if self._saved else self._tree.base
            diff = await self._tools.workspaces.diff_stat(self._tree, commit)
            if outcome is Outcome.OK and self._trusted():
                branch = await self._tools.workspaces.publish(self._tree, commit)
        except GitError as error:
            if outcome is Outcome.OK:
                return self._failed(f"the work could not be pushed: {error}")
            log.warning("%s: %s", self.grant.job_id, error)
        if not self._trusted():
            return await self._ended_early(EndReason.TRUST_LOST)
        result = Result(outcome=outcome, summary=summary, branch=branch, commit=commit, verify=tuple(self._evidence))
        insights = self._tools.adapter.insights(self._tail()).model_copy(update={"diff": diff})
        return TermEnd(result, insights=insights, checkpoint=checkpoint)

    async def _engine(self, argv: tuple[str, ...], env: Any, *, checkpoints: bool) -> tuple[Ended, EndReason | None]:
        """Runs one program to its end, or ends it; the reason is why it was ended, or was not even begun."""
        assert self._tree is not None
        assert self._log is not None
        reason = self.state.must_end(self._now())
        if reason is not None:
            return Ended("not_started", -9), reason
        term_env = {
            "GIGAFACTORY_JOB": self.grant.job_id,
            "GIGAFACTORY_EPOCH": str(self.grant.lease_epoch),
            "GIGAFACTORY_ATTEMPT": str(self.grant.attempt),
        }
        engine = await self._tools.launch(
            argv,
            cwd=self._tree.work_dir,
            env=engine_env({**env, **term_env, **helper_env(self._tools.scratch)}),
            scratch=self._tools.scratch,
            deadline_s=self.state.trust.until_s,
            on_output=self._heard,
        )
        self.state.engine_started(self._now())
        waiting = asyncio.create_task(engine.wait())
        saver = asyncio.create_task(self._save_regularly()) if checkpoints else None
        try:
            reason = await self._watch(engine, waiting)
            ended = await waiting
        finally:
            if not waiting.done():
                engine.end(0)
                await waiting
            if saver is not None:
                saver.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await saver
        if reason is None and ended.reason == "trust_lost":
            reason = EndReason.TRUST_LOST
        return ended, reason

    async def _watch(self, engine: RunningEngine, waiting: asyncio.Task[Ended]) -> EndReason | None:
        deadline_s = self.state.trust.until_s
        while True:
            reason = self.state.must_end(self._now())
            if reason is not None:
                engine.end(0 if reason is EndReason.TRUST_LOST else 2.0)
                return reason
            if self.state.trust.until_s != deadline_s:
                deadline_s = self.state.trust.until_s
                engine.move_deadline(deadline_s)
            self._poked.clear()
            poked = asyncio.create_task(self._poked.wait())
            left_s = max(0.0, min(self.state.next_look_s() - self._now(), LOOK_S))
            await asyncio.wait({waiting, poked}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            poked.cancel()
            if waiting.done():
                return None

    async def _save_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._tools.checkpoint_every_s)
            try:
                saved = await self._save("checkpoint")
            except GitError as error:
                log.warning("no checkpoint of %s: %s", self.grant.job_id, error)
                continue
            if saved is not None and self._trusted():
                await self._tools.save_checkpoint(self.state, saved)

    async def _save(self, message: str) -> Saved | None:
        """Pushes what is new in the tree; nothing once trust is lost."""
        assert self._tree is not None
        if not self._trusted():
            return None
        saved = await self._tools.workspaces.save(self._tree, f"{message} of {self.grant.job_id}")
        if saved is not None:
            self._saved = saved
        return saved

    async def _save_last(self, message: str) -> Checkpoint | None:
        """What the end of the term carries along as its checkpoint, so that it costs no message of its own."""
        try:
            saved = await self._save(message)
        except GitError as error:
            log.warning("the work on %s was not saved: %s", self.grant.job_id, error)
            return None
        if saved is None:
            return None
        return Checkpoint(
            ref=saved.ref,
            commit=saved.commit,
            at=self._tools.clock.now(),
            number=self.state.next_checkpoint(),
            local=self._tools.factory_id if saved.local else None,
        )

    async def _ended_early(self, reason: EndReason) -> TermEnd:
        """The engine is dead. What it left is saved, where that is still this holder's to do."""
        checkpoint = await self._save_last("work so far") if self._tree is not None else None
        outcome = OUTCOME_OF[reason]
        result = Result(outcome=outcome, summary=f"ended early: {reason}", commit=self._saved and self._saved.commit)
        release = outcome in (Outcome.RELEASED, Outcome.PREEMPTED, Outcome.CANCELLED)
        return TermEnd(result, release=release, checkpoint=checkpoint)

    def _failed(self, why: str, checkpoint: Checkpoint | None = None) -> TermEnd:
        result = Result(outcome=Outcome.ENGINE_FAILED, summary=why, verify=tuple(self._evidence))
        return TermEnd(result, insights=self._tools.adapter.insights(self._tail()), checkpoint=checkpoint)

    def _how(self, ended: Ended) -> str:
        if ended.reason == "not_started":
            return f"the engine could not be started: {ended.error}"
        how = f"was ended by signal {-ended.rc}" if ended.rc < 0 else f"ended with {ended.rc}"
        return f"the engine {how}\n{self._tail()[-SUMMARY_CHARS:]}"

    def _heard(self, data: bytes) -> None:
        assert self._log is not None
        self.state.progressed(self._now())
        self._log.take(data)

    def _tail(self) -> str:
        return self._log.tail() if self._log is not None else ""

    def _trusted(self) -> bool:
        return self.state.trust.holds(self._now())

    def _now(self) -> float:
        return self._tools.clock.boot_s()
