"""One held job, from its grant to what is to be reported: prepared -> ran -> saved -> verified -> published -> ended.

Whatever ends it, the engine is dead before the end is given, and nothing is pushed once trust is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from factory.engines.port import Command, EngineAdapter, EngineRefusal
from factory.git.run import GitError, is_machines, is_refusal
from factory.log_delivery import LogDelivery
from factory.ports import Ended, Fault, Launch, RunningEngine, Saved, TreeError, Trees, WorkspaceError, Worktree
from factory.surroundings.folders import TermFolders
from factory.surroundings.surroundings import Surroundings, SurroundingsError
from factory.term_log import TermLog
from factory.term_state import OUTCOME_OF, EndReason, TermState
from runtime.clock import Clock
from schemas.messages import Grant
from schemas.outcome import Outcome, Result, VerifyEvidence
from schemas.projections import Insights
from schemas.work import Checkpoint

log = logging.getLogger(__name__)

SUMMARY_CHARS = 2000
VERIFY_TAIL_CHARS = 2000
LOOK_S = 1.0
PHASE_CHARS = 200
NAMED_MAX = 5  # files in a sentence
SAYS = "[gigafactory] "  # how a line of the factory's begins in a log
RELEASED = (Outcome.RELEASED, Outcome.PREEMPTED, Outcome.CANCELLED)


@dataclass(frozen=True)
class TermEnd:
    """What is to be said of the term: a report, or a release (`release` True). `tree`: what there is to be tidied.
    `shows_machine`: that it failed tells something of this machine, not of the job's source or wishes alone.
    """

    result: Result
    release: bool = False
    insights: Insights = field(default_factory=Insights)
    checkpoint: Checkpoint | None = None
    tree: Worktree | None = None
    shows_machine: bool = False


@dataclass(frozen=True)
class Ran:
    """How a program ended. `cut`: why it was ended before it ended by itself, or was not even begun."""

    ended: Ended
    cut: EndReason | None


@dataclass(frozen=True)
class Verified:
    """The commands that ran, in order; the last one may have failed. `cut`: why they were broken off; `broke`: what
    kept this machine from running one.
    """

    evidence: tuple[VerifyEvidence, ...] = ()
    cut: EndReason | None = None
    broke: str | None = None

    @property
    def failed(self) -> VerifyEvidence | None:
        return next((one for one in self.evidence if one.rc != 0), None)


@dataclass(frozen=True)
class SavedWork:
    """All of the engine's work, pushed. `checkpoint`: what the report carries along, None where nothing was new."""

    commit: str
    checkpoint: Checkpoint | None
    diff: dict[str, int]


@dataclass(frozen=True)
class Tools:
    """What a term works with. `save_checkpoint` tells of a commit that was pushed."""

    clock: Clock
    trees: Trees
    launch: Launch
    adapter: EngineAdapter
    folders: TermFolders
    surroundings: Surroundings
    factory_id: str
    session_id: str
    checkpoint_every_s: float
    logs: LogDelivery
    save_checkpoint: Callable[[TermState, Saved], Awaitable[None]]


class Work:
    """What a term has made so far, in its tree. `last`: the latest of it that is pushed. `over`: no more is added."""

    def __init__(self, tree: Worktree, state: TermState, tools: Tools) -> None:
        self.tree = tree
        self.last: Saved | None = None
        self.over = False
        self._state = state
        self.tools = tools

    def told(self) -> tuple[str, ...]:
        """What could not be saved, and where a person finds it."""
        if not self.tree.notes:
            return ()
        where = f"{self._state.grant.job_id}/{self._state.grant.lease_epoch}"
        return (*self.tree.notes, f"the tree is kept on {self.tools.factory_id}, in work/quarantine/{where}")

    def is_trusted(self) -> bool:
        return self._state.trust.holds(self.tools.clock.boot_s())

    async def save(self, message: str) -> Saved | None:
        """Pushes what is new in the tree; nothing once trust is lost, or the engine's work is over. Raises GitError."""
        if self.over or not self.is_trusted():
            return None
        saved = await self.tools.trees.save(self.tree, f"{message} of {self._state.grant.job_id}")
        self.last = saved or self.last
        return saved

    async def save_regularly(self) -> None:
        while True:
            await asyncio.sleep(self.tools.checkpoint_every_s)
            try:
                saved = await self.save("checkpoint")
            except GitError as error:
                log.warning("no checkpoint of %s: %s", self._state.grant.job_id, error)
                continue
            if saved is not None and self.is_trusted():
                await self.tools.save_checkpoint(self._state, saved)

    async def save_last(self, message: str) -> Checkpoint | None:
        """What the end of the term carries along as its checkpoint, so that it costs no message of its own."""
        try:
            saved = await self.save(message)
            if self.is_trusted() and not self.over:
                await self.tools.trees.settle(self.tree)
        except GitError as error:
            log.warning("the work on %s was not saved: %s", self._state.grant.job_id, error)
            self.tree.notes += (f"not all of the work is saved: {error}",)
            return None
        return self.checkpoint(saved)

    def checkpoint(self, saved: Saved | None) -> Checkpoint | None:
        """With the next number of the term."""
        if saved is None:
            return None
        return Checkpoint(
            ref=saved.ref,
            commit=saved.commit,
            at=self.tools.clock.now(),
            number=self._state.next_checkpoint(),
            local=self.tools.factory_id if saved.local else None,
        )


class Term:
    """Driven by `run`; `poke` makes it look at its state again (a stop, a renewal, a drain)."""

    def __init__(self, state: TermState, tools: Tools) -> None:
        self.state = state
        self.tools = tools
        self._poked = asyncio.Event()
        self._begins = 0  # where in its output the engine's own begins, behind what the factory says of preparing

    @property
    def grant(self) -> Grant:
        return self.state.grant

    def poke(self) -> None:
        self._poked.set()

    async def run(self) -> TermEnd:
        """Never raises for what a job, or a mistake of the factory, can cause: that is an outcome."""
        cut = self._must_end()
        if cut is not None:  # it came too late, or is wanted back already: no tree is made for it
            return await self._cut_short(cut, None)
        tree: Worktree | None = None
        output = self.tools.logs.open(self.grant, self.tools.session_id)
        try:
            self.tools.surroundings.prepare(self.grant, self.tools.folders)
            tree, cut = await self._prepare(output)
            if tree is None:
                assert cut is not None
                end = await self._cut_short(cut, None)
            else:
                end = await self._of_tree(Work(tree, self.state, self.tools), output)
        except WorkspaceError as error:
            end = _blameless(str(error), anywhere=error.fault is Fault.MANIFEST)
        except SurroundingsError as error:
            end = _blameless(str(error), anywhere=False)
        except EngineRefusal as error:
            end = _blameless(str(error), anywhere=not error.here)
        except (OSError, MemoryError) as error:
            end = replace(_blameless(str(error) or "no memory", anywhere=False), shows_machine=True)
        except Exception as error:
            log.exception("the term of %s broke", self.grant.job_id)
            end = self._failed(f"the factory made a mistake: {error!r}", output)
        finally:
            output.close()
        if output.not_kept is not None:
            summary = f"{output.not_kept}\n{end.result.summary or ''}"
            end = replace(end, result=end.result.model_copy(update={"summary": summary}))
        return replace(end, tree=tree, insights=end.insights.model_copy(update={"log_bytes": output.size}))

    async def tidy(self, end: TermEnd, *, superseded: bool) -> None:
        """After the report: a tree that is pushed whole goes; a fenced one, or one with more in it, is kept."""
        try:
            if end.tree is not None and (superseded or not await self._is_cleaned_up(end.tree)):
                kept = await self.tools.trees.quarantine(end.tree, _why_kept(end.tree, superseded=superseded))
                log.info("the tree of %s is kept in %s", self.grant.job_id, kept)
        except (GitError, OSError) as error:
            log.warning("the tree of %s stays where it is: %s", self.grant.job_id, error)
        try:
            await self.tools.folders.remove()
        except OSError as error:
            log.warning("the folders of %s stay: %s", self.grant.job_id, error)

    async def _is_cleaned_up(self, tree: Worktree) -> bool:
        try:
            return await self.tools.trees.clean_up(tree)
        except (GitError, OSError, MemoryError) as error:
            log.warning("whether all of %s is saved cannot be seen: %s", self.grant.job_id, error)
            return False

    async def _of_tree(self, work: Work, output: TermLog) -> TermEnd:
        if self.grant.publish_only and self.grant.checkpoint is not None:
            work.over = await self.tools.trees.settle(work.tree)
            done = SavedWork(self.grant.checkpoint.commit, None, {})
            return await self._publish(work, done, Verified(), "published as it was verified before", output)
        return await self._work(work, self.tools.adapter.command(self.grant, self.tools.folders.control), output)

    async def _prepare(self, output: TermLog) -> tuple[Worktree | None, EndReason | None]:
        """Work like any other: it is ended when the term must end, and nothing of it is left then."""

        preparing = asyncio.create_task(self.tools.trees.prepare(self.grant, lambda line: self._tell(output, line)))
        try:
            cut = await self._watch(preparing, lambda _cut: preparing.cancel())
            made = cut is None or (preparing.done() and not preparing.cancelled())  # what is made is tidied by its end
            return (await preparing, None) if made else (None, cut)
        finally:
            preparing.cancel()
            await asyncio.gather(preparing, return_exceptions=True)

    def _tell(self, output: TermLog, phase: str) -> None:
        """In the log, and with the next heartbeat."""
        self.state.phase = phase[:PHASE_CHARS]
        output.take(f"{SAYS}{phase}\n".encode(errors="replace"))

    async def _work(self, work: Work, command: Command, output: TermLog) -> TermEnd:
        """Executed, claimed, saved and verified are different things, and all of them are of this one term."""
        self._tell(output, f"engine: {self.grant.engine}")
        self._begins = output.heard
        saver = asyncio.create_task(work.save_regularly())
        try:
            ran = await self._run_program(work, command.argv, command.env, output)
        finally:
            saver.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await saver
        if ran.cut is not None:
            return await self._cut_short(ran.cut, work)
        if ran.ended.reason == "not_started":
            end = _blameless(f"the engine could not be started: {ran.ended.error}", anywhere=False)
            return replace(end, shows_machine=True)
        if ran.ended.reason == "launcher_gone":
            checkpoint = await work.save_last("work of an engine whose launcher was killed")
            return replace(
                _blameless(f"the engine's run broke off: {ran.ended.error}", anywhere=False), checkpoint=checkpoint
            )
        if ran.ended.rc != 0:
            checkpoint = await work.save_last("work of a failed engine")
            return self._failed(_how(ran.ended, output, self._begins), output, checkpoint, work=work)
        said = output.tail(since=self._begins)
        try:
            saved = await self._save(work)
        except TreeError as error:
            work.tree.notes += (f"the work could not be saved: {error}",)
            return self._failed(_how(ran.ended, output, self._begins), output, work=work)
        except GitError as error:
            work.tree.notes += (f"the work could not be saved: {error}",)
            return _blameless("\n".join(work.told()), anywhere=is_refusal(error))  # of a server, it is everybody's
        if saved is None:
            return await self._cut_short(EndReason.TRUST_LOST, work)
        verified = await self._verify(work, output)
        if verified.cut is not None:
            return await self._cut_short(verified.cut, work, saved.checkpoint)
        if verified.broke is not None:
            return replace(_blameless(verified.broke, anywhere=False), checkpoint=saved.checkpoint)
        return await self._publish(work, saved, verified, said, output)

    async def _save(self, work: Work) -> SavedWork | None:
        """Before it is verified, so that what is shipped is what was verified, without what verify left."""
        saved = await work.save("finished work")
        if not work.is_trusted():
            return None
        work.over = True
        whole = await self.tools.trees.settle(work.tree)
        if not whole and not work.tree.notes:
            raise GitError("something goes on changing the tree; it is kept")
        commit = work.last.commit if work.last else work.tree.base
        diff = await self.tools.trees.diff_stat(work.tree, commit)
        return SavedWork(commit, work.checkpoint(saved), diff)

    async def _verify(self, work: Work, output: TermLog) -> Verified:
        evidence: tuple[VerifyEvidence, ...] = ()
        for command in self.grant.verify:
            self._tell(output, f"verify: {command}")
            before = output.heard
            ran = await self._run_program(work, ("sh", "-c", command), {}, output)
            if ran.cut is not None:
                return Verified(evidence, ran.cut)
            if ran.ended.reason in ("not_started", "launcher_gone"):
                return Verified(evidence, broke=f"verify could not be run: {command}: {ran.ended.error}")
            tail = output.tail(since=before)[-VERIFY_TAIL_CHARS:]
            evidence = (*evidence, VerifyEvidence(command=command, rc=ran.ended.rc, tail=tail))
            if ran.ended.rc != 0:
                break
        return Verified(evidence)

    async def _publish(self, work: Work, saved: SavedWork, verified: Verified, said: str, output: TermLog) -> TermEnd:
        """What is verified gets its branch: the work as it was before verify."""
        failed, trees = verified.failed, self.tools.trees
        branch = None
        notes = [*work.told(), *(await self._changed_by_verify(work, saved, verified))]
        try:
            if failed is None and work.is_trusted():
                if work.tree.remote is not None:
                    self._tell(output, f"pushing {work.tree.branch}")
                branch = await trees.publish(work.tree, saved.commit)
        except GitError as error:
            result = Result(
                outcome=Outcome.UNPUBLISHED,
                summary="\n".join([*notes, f"the branch could not be pushed: {error}"]),
                commit=saved.commit,
                verify=verified.evidence,
            )
            return TermEnd(result, insights=self._insights(said, saved), checkpoint=saved.checkpoint)
        if not work.is_trusted():
            return await self._cut_short(EndReason.TRUST_LOST, work, saved.checkpoint)
        told = said[-SUMMARY_CHARS:] if failed is None else f"verify failed with {failed.rc}: {failed.command}"
        result = Result(
            outcome=Outcome.OK if failed is None else Outcome.VERIFY_FAILED,
            summary="\n".join([*notes, told]),
            branch=branch,
            commit=saved.commit,
            verify=verified.evidence,
        )
        return TermEnd(result, insights=self._insights(said, saved), checkpoint=saved.checkpoint)

    async def _changed_by_verify(self, work: Work, saved: SavedWork, verified: Verified) -> list[str]:
        """What is shipped is as it was before: that is said, where it makes a difference."""
        if not verified.evidence:
            return []
        try:
            changed = await self.tools.trees.changed_since(work.tree, saved.commit)
        except (GitError, OSError) as error:
            log.warning("what verify changed for %s is not known: %s", self.grant.job_id, error)
            return []
        names = ", ".join(changed[:NAMED_MAX]) + (", …" if len(changed) > NAMED_MAX else "")
        return [f"verify changed files of the work, which is shipped as it was before: {names}"] if changed else []

    def _insights(self, said: str, saved: SavedWork) -> Insights:
        return self.tools.adapter.insights(said).model_copy(update={"diff": saved.diff})

    async def _run_program(self, work: Work, argv: tuple[str, ...], env: Mapping[str, str], output: TermLog) -> Ran:
        """Runs one program to its end, or ends it."""
        cut = self._must_end()
        if cut is not None:
            return Ran(Ended("not_started", -9), cut)

        def heard(data: bytes) -> None:
            self.state.progressed(self._now())
            output.take(data)

        engine = await self.tools.launch(
            argv,
            cwd=work.tree.work_dir,
            env={**self.tools.surroundings.env(self.grant, self.tools.folders), **env},
            control=self.tools.folders.control,
            deadline_s=self.state.trust.until_s,
            on_output=heard,
            around=self.tools.surroundings.around(self.grant, work.tree, self.tools.folders),
        )
        self.state.engine_started(self._now())
        waiting = asyncio.create_task(engine.wait())
        try:
            cut = await self._watch(waiting, _ending(engine), engine.move_deadline)
            ended = await waiting
        finally:
            if not waiting.done():
                engine.end(0)
                await waiting
        if cut is None and ended.reason == "trust_lost":
            cut = EndReason.TRUST_LOST
        return Ran(ended, cut)

    async def _watch(
        self,
        working: asyncio.Future[Any],
        end: Callable[[EndReason], object],
        move_deadline: Callable[[float], None] = lambda _deadline_s: None,
    ) -> EndReason | None:
        """Until it is done, or must be ended; moves its deadline as trust is extended."""
        deadline_s = self.state.trust.until_s
        while True:
            cut = self._must_end()
            if cut is not None:
                end(cut)
                return cut
            if self.state.trust.until_s != deadline_s:
                deadline_s = self.state.trust.until_s
                move_deadline(deadline_s)
            self._poked.clear()
            poked = asyncio.create_task(self._poked.wait())
            left_s = max(0.0, min(self.state.next_look_s() - self._now(), LOOK_S))
            await asyncio.wait({working, poked}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            poked.cancel()
            if working.done():
                return None

    async def _cut_short(self, cut: EndReason, work: Work | None, checkpoint: Checkpoint | None = None) -> TermEnd:
        """The engine is dead. What it left is saved, where that is still this holder's to do."""
        if work is not None:
            checkpoint = await work.save_last("work so far") or checkpoint
        outcome = OUTCOME_OF[cut]
        commit = work.last.commit if work is not None and work.last is not None else None
        summary = "\n".join([*(work.told() if work is not None else ()), self.state.why_ended(cut)])
        result = Result(outcome=outcome, summary=summary, commit=commit)
        return TermEnd(result, release=outcome in RELEASED, checkpoint=checkpoint)

    def _failed(
        self, why: str, output: TermLog, checkpoint: Checkpoint | None = None, work: Work | None = None
    ) -> TermEnd:
        summary = "\n".join([*(work.told() if work is not None else ()), why])
        result = Result(outcome=Outcome.ENGINE_FAILED, summary=summary)
        return TermEnd(result, insights=self.tools.adapter.insights(output.tail()), checkpoint=checkpoint)

    def _must_end(self) -> EndReason | None:
        return self.state.must_end(self._now())

    def _now(self) -> float:
        return self.tools.clock.boot_s()


def _why_kept(tree: Worktree, *, superseded: bool) -> str:
    if superseded:
        return "its term was over before its end was told: the job may go on elsewhere, from the last checkpoint"
    return "; ".join(tree.notes) or "something in it is saved nowhere else"


def _blameless(why: str, *, anywhere: bool) -> TermEnd:
    """No fault of the job's engine. `anywhere`: no other machine could do it either."""
    outcome = Outcome.UNRUNNABLE if anywhere else Outcome.MACHINE_FAILED
    return TermEnd(Result(outcome=outcome, summary=why), shows_machine=not anywhere and is_machines(why))


def _ending(engine: RunningEngine) -> Callable[[EndReason], None]:
    return lambda cut: engine.end(0 if cut is EndReason.TRUST_LOST else 2.0)


def _how(ended: Ended, output: TermLog, begins: int) -> str:
    how = f"was ended by signal {-ended.rc}" if ended.rc < 0 else f"ended with {ended.rc}"
    return f"the engine {how}\n{output.tail(since=begins)[-SUMMARY_CHARS:]}"
