"""The system broken on purpose, one way at a time: each must be caught by a checker, or the checkers have a hole.

A mutation replaces functions of the running code for as long as it is switched on; nothing of it is ever written.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from bus.port import Message
from chaos import wires
from chaos.machines import Machine
from chaos.mutation import Mutation, Patch
from coordinator import inbox, leases, transact
from coordinator.dispatch.ready import ReadyIndex
from coordinator.domain import decide as deciding
from coordinator.domain import guards, holder, patches, retry
from coordinator.domain import lease as lease_rules
from coordinator.domain.ops import Cause, Claim, Reap
from coordinator.domain.refusals import illegal
from coordinator.domain.table import Action
from coordinator.handlers import claims, terms
from coordinator.handlers.answers import check_applied
from coordinator.inbox import OPS
from coordinator.loops.offers import Offers
from coordinator.loops.promoter import Promoter
from coordinator.loops.reaper import Reaper
from coordinator.loops.vanished import Vanished
from coordinator.projector import Projector
from coordinator.scheduler import plan as scheduler_plan
from coordinator.scheduler.feasible import obstacles
from coordinator.store.memory import MemoryStore
from coordinator.store.port import ABSENT, JOBS, Address, Derived, Guarded, Indefinite, WriteStatus, Written
from coordinator.store.queries import read_factory, read_job, read_lease
from coordinator.transact import Transactor
from factory.claiming import Claiming
from factory.term import Term, TermEnd, Work
from factory.trust import TrustWindow
from schemas.errors import ErrorCode, FleetError
from schemas.guards import LockGuard
from schemas.ids import lock_id, run_id
from schemas.job import Job
from schemas.messages import ClaimAnswer, Grant, Offer
from schemas.outcome import Outcome


def racy_store(replace: Patch) -> None:
    async def commit(self: MemoryStore, guarded: Sequence[Guarded], then: Sequence[Derived] = ()) -> Written:
        for write in guarded:
            entry = self.entry_at(write.address)
            if (entry[1] if entry else ABSENT) != write.expected:
                return self.commit_now(guarded, then)
        await asyncio.sleep(0.002)
        etags = tuple(self.put(write.container, write.doc) for write in guarded)
        self.project_now(then)
        return Written(WriteStatus.OK, etags)

    replace(MemoryStore, "commit", commit)


def no_epoch_check(replace: Patch) -> None:
    def holds(job: Job, op: Any) -> bool:
        holder = job.holder
        return holder is not None and (holder.factory_id, holder.session_id) == (op.factory_id, op.session_id)

    replace(deciding, "holds", holds)


def no_session_check(replace: Patch) -> None:
    def holds(job: Job, op: Any) -> bool:
        return job.holder is not None and job.holder.factory_id == op.factory_id and job.lease_epoch == op.lease_epoch

    replace(deciding, "holds", holds)

    async def asked(ctx: Any, request: Any, op: Any) -> Any:
        return check_applied(await ctx.transactor.transact(terms.key_of(request), op))

    replace(terms, "ask_transition", asked)


def epoch_not_moved(replace: Patch) -> None:
    def next_epoch(job: Job) -> dict[str, Any]:
        return {"lease_epoch": job.granted_epoch, "granted_epoch": job.granted_epoch - 1}

    replace(patches, "next_epoch", next_epoch)


def granted_epoch_ignored(replace: Patch) -> None:
    """A grant does not use its epoch up, so that the next term has the same one."""
    claim = deciding.TRANSITIONS[Claim]

    def granted(job: Job, op: Any, now: Any) -> Any:
        decided = claim(job, op, now)
        return decided.model_copy(update={"granted_epoch": job.granted_epoch}) if isinstance(decided, Job) else decided

    replace(deciding, "TRANSITIONS", {**deciding.TRANSITIONS, Claim: granted})


def op_not_looked_up(replace: Patch) -> None:
    async def find_event(store: Any, job: Job, op_id: str, above: int = 0) -> None:
        return None

    replace(transact, "find_event", find_event)


def doubt_is_no(replace: Patch) -> None:
    commit = Transactor.commit

    async def certain(self: Transactor, steps: Any, guards: Any) -> bool:
        try:
            return await commit(self, steps, guards)
        except Indefinite as error:
            raise FleetError(ErrorCode.CONFLICT, "it did not happen") from error

    replace(Transactor, "commit", certain)


def doubt_is_yes(replace: Patch) -> None:
    commit = Transactor.commit

    async def certain(self: Transactor, steps: Any, guards: Any) -> bool:
        try:
            return await commit(self, steps, guards)
        except Indefinite:
            for step in steps:
                own = next(event for event in step.after.outbox if event.op_id == step.ask.op.id)
                step.ask.answer = await self.answer_committed(step.after, (own,), own)
            return True

    replace(Transactor, "commit", certain)


def repeat_refused(replace: Patch) -> None:
    """A refusal is given without a look at whether the asker's own earlier try is why."""

    async def answer_refused(self: Transactor, ask: Any, rejected: Any) -> Any:
        return rejected

    replace(Transactor, "answer_refused", answer_refused)


def outbox_dropped(replace: Patch) -> None:
    async def derive(self: Projector, job: Job) -> list[Derived]:
        return []

    replace(Projector, "derive", derive)


def older_projection_wins(replace: Patch) -> None:
    def project(self: MemoryStore, derived: Sequence[Derived]) -> None:
        for write in derived:
            if write.rev is not None or self.entry_at(write.address) is None:
                self.put(write.container, write.doc)

    replace(MemoryStore, "project_now", project)


def claim_not_idempotent(replace: Patch) -> None:
    asks = iter(range(10**9))

    def anew(look: Callable[..., Any]) -> Any:
        async def looked(ctx: Any, request: Any, **more: Any) -> Any:
            other = request.model_copy(update={"request_id": f"{request.request_id}-{next(asks)}"})
            return await look(ctx, other, **more)

        return looked

    for name in ("claim_named", "claim_best"):
        replace(claims, name, anew(getattr(claims, name)))


def refused_by_index(replace: Patch) -> None:
    async def read_unless_taken(ctx: Any, request: Any, key: Any) -> None:
        job = ctx.ready.get(key)
        if job is not None and job.holder is not None and job.holder.request_id != request.request_id:
            raise claims.refusal(illegal(job, Action.CLAIM, "holder"))

    replace(claims, "read_unless_taken", read_unless_taken)


def report_stops_next(replace: Patch) -> None:
    report = OPS["report"]

    async def whole(ctx: Any, request: Any) -> Any:
        answer: Any = await report[1](ctx, request)
        if answer.report_error is not None:
            raise FleetError.from_doc(answer.report_error)
        return answer

    replace(wires, "OPS", {**OPS, "report": (report[0], whole)})
    replace(inbox, "OPS", {**OPS, "report": (report[0], whole)})


def lock_ignored(replace: Patch) -> None:
    def settle(before: Job, after: Job, lock: LockGuard | None) -> LockGuard:
        free = LockGuard(id=lock_id(before.lock or ""), product_id=before.product_id)
        held = {"job_id": after.id, "lease_epoch": after.lease_epoch}
        return free.model_copy(update=held) if after.held else free

    replace(guards, "settle_lock", settle)


def lock_freed_at_start(replace: Patch) -> None:
    lock_ignored_by_end = guards.settle_lock

    def settle(before: Job, after: Job, lock: LockGuard | None) -> Any:
        if after.held:
            return lock_ignored_by_end(before, after, lock)
        mine = lock is not None and lock.job_id == before.id
        free = LockGuard(id=lock_id(before.lock or ""), product_id=before.product_id)
        return free if mine or lock is None else lock

    async def start(ctx: Any, request: Any) -> Any:
        answer = await terms.start(ctx, request)
        stored = await read_job(ctx.store, terms.key_of(request))
        if stored is not None and stored.job.lock is not None:
            lock = await ctx.store.read(Address(JOBS, stored.job.product_id, lock_id(stored.job.lock)))
            if lock is not None:
                await ctx.store.update(JOBS, lock.doc | {"jobId": None, "leaseEpoch": None}, lock.etag)
        return answer

    replace(guards, "settle_lock", settle)
    _replace_op(replace, "start", start)


def _replace_op(replace: Patch, op: str, handler: Any) -> None:
    ops = {**OPS, op: (OPS[op][0], handler)}
    for module in (inbox, wires):
        replace(module, "OPS", ops)


def lock_written_apart(replace: Patch) -> None:
    commit = Transactor.commit

    async def apart(self: Transactor, steps: Any, guards: Any) -> bool:
        for guard in guards:
            if not (await self.store.commit([guard])).ok:
                return False
        return await commit(self, steps, ())

    replace(Transactor, "commit", apart)


def renewed_for_anyone(replace: Patch) -> None:
    async def check_holder(ctx: Any, key: Any, factory_id: str, session_id: str, lease_epoch: int) -> Job:
        stored = await read_job(ctx.store, key)
        if stored is None or stored.job.holder is None or stored.job.lease_epoch != lease_epoch:
            raise FleetError(ErrorCode.FENCED, "not held")
        return stored.job

    replace(terms, "check_holder", check_holder)


def terms_fall(replace: Patch) -> None:
    """1, 3, 2, 5, 4, …: each term has an epoch of its own, and not all are above those before."""

    def next_epoch(job: Job) -> dict[str, Any]:
        now = job.granted_epoch
        following = now + 3 if now % 2 == 0 else 3 if now == 1 else now - 1
        return {"lease_epoch": following, "granted_epoch": following - 1}

    replace(patches, "next_epoch", next_epoch)


def action_repeats(replace: Patch) -> None:
    """What an operator asked before, and what was undone since, is done again by the repeat."""
    answer_own = Transactor.answer_own

    async def forgetful(self: Transactor, ask: Any, job: Job, number: int) -> Any:
        return await answer_own(self, ask, job, number) if number else None

    replace(Transactor, "answer_own", forgetful)


def bus_is_needed(replace: Patch) -> None:
    """A coordinator that has lost the bus answers nobody over REST either."""

    def needing(handler: Any) -> Any:
        async def handled(ctx: Any, request: Any, *waits: Any) -> Any:
            if not ctx.bus.connected:
                raise FleetError(ErrorCode.UNAVAILABLE, "the bus is gone")
            return await handler(ctx, request, *waits)

        return handled

    ops = {op: (model, needing(handler)) for op, (model, handler) in OPS.items()}
    replace(wires, "OPS", ops)


def launcher_waits(replace: Patch) -> None:
    """The launcher is given a minute more than the trust: a stopped factory's engine runs on."""
    trusted = cast(property, TrustWindow.until_s).fget
    assert trusted is not None
    replace(TrustWindow, "until_s", property(lambda self: trusted(self) + 60.0))


def reaped_unclosed(replace: Patch) -> None:
    async def close(ctx: Any, job: Job, cause: Cause, overdue: Any) -> bool:
        stored = await read_lease(ctx.store, job.id, job.lease_epoch)
        lease = stored.lease if stored else None
        return cause is not Cause.EXPIRED or lease_rules.expires_at(job, lease, ctx.timers.lease_ttl_s) <= overdue

    replace(leases, "close", close)


def reaped_too_soon(replace: Patch) -> None:
    run_once = Reaper.run_once

    async def hasty(self: Reaper, now: datetime) -> Any:
        return await run_once(self, now + timedelta(seconds=self.ctx.timers.lease_ttl_s / 2))

    replace(Reaper, "run_once", hasty)


def gone_for_good(replace: Patch) -> None:
    """Whose connection ended is taken for dead, whatever is heard of it by the other way."""

    async def still_gone(self: Vanished, client: Any, gone_at_s: float) -> Any:
        entry = next((one for one in self.ctx.roster.entries() if one.doc.bus_key == client.public), None)
        stored = await read_factory(self.ctx.store, entry.doc.product_id, entry.doc.id) if entry else None
        return stored.factory if stored is not None else None

    replace(Vanished, "find_gone", still_gone)


def reaper_asleep(replace: Patch) -> None:
    async def run_once(self: Reaper, now: Any) -> int:
        return 0

    replace(Reaper, "run_once", run_once)


def checkpoint_lost(replace: Patch) -> None:
    reap = deciding.TRANSITIONS[Reap]

    def forgetful(job: Job, op: Any, now: Any) -> Any:
        return reap(job.model_copy(update={"checkpoint": None}), op, now)

    replace(deciding, "TRANSITIONS", {**deciding.TRANSITIONS, Reap: forgetful})


def dep_forgotten(replace: Patch) -> None:
    step = Promoter.next_step

    async def half(self: Promoter, job: Job, now: Any) -> Any:
        return None if job.deps else await step(self, job, now)

    replace(Promoter, "next_step", half)


def pause_ignored(replace: Patch) -> None:
    settle = guards.settle_ledger

    def deaf(before: Job, after: Job, ledger: Any) -> Any:
        settled = settle(before, after, ledger.model_copy(update={"paused": False}) if ledger else None)
        assert isinstance(settled, tuple)
        paused = ledger is not None and ledger.paused
        return settled[0], settled[1].model_copy(update={"paused": paused})

    replace(guards, "settle_ledger", deaf)


def spend_counted_twice(replace: Patch) -> None:
    settle = guards.settle_ledger

    def double(before: Job, after: Job, ledger: Any) -> Any:
        settled = settle(before, after, ledger)
        if isinstance(settled, tuple) and not after.held:
            spent = after.spend.usd - before.spend.usd
            return settled[0], settled[1].model_copy(update={"spent": settled[1].spent + spent})
        return settled

    replace(guards, "settle_ledger", double)


def capability_ignored(replace: Patch) -> None:
    def lenient(job: Job, factory: Any, snapshot: Any) -> Any:
        return [one for one in obstacles(job, factory, snapshot) if one.filter not in ("capability", "enrolment")]

    for module in (claims, scheduler_plan):
        replace(module, "obstacles", lenient)


def same_machine_again(replace: Patch) -> None:
    def lenient(job: Job, factory: Any, snapshot: Any) -> Any:
        return [one for one in obstacles(job, factory, snapshot) if one.filter != "avoid"]

    for module in (claims, scheduler_plan):
        replace(module, "obstacles", lenient)


def machines_fault_charged(replace: Patch) -> None:
    def charged(retries: Any, outcome: Outcome) -> Any:
        blamed = Outcome.ENGINE_FAILED if outcome is Outcome.MACHINE_FAILED else outcome
        return retry.charged(retries, blamed)

    replace(holder, "charged", charged)


def nobody_woken(replace: Patch) -> None:
    async def run_once(self: Offers, now: datetime) -> Counter[str]:
        return Counter()

    replace(ReadyIndex, "wake", lambda self: None)
    replace(Offers, "run_once", run_once)


def trust_without_end(replace: Patch) -> None:
    trusted = cast(property, TrustWindow.until_s).fget
    assert trusted is not None
    replace(TrustWindow, "until_s", property(lambda self: trusted(self) + 1000.0))
    replace(TrustWindow, "holds", lambda self, now_s: now_s < self.until_s)


def offer_is_authority(replace: Patch) -> None:
    heard = Claiming.heard_offer

    def obey(self: Claiming, message: Message) -> None:
        offer = Offer.model_validate_json(message.data)
        if self.seats_free and self.session.factory_id in offer.invited:
            grant = Grant.model_validate(
                {
                    **{"productId": offer.product_id, "jobId": offer.job_id, "leaseEpoch": offer.lease_epoch},
                    **{"requestId": "none", "runId": run_id(offer.job_id, offer.lease_epoch), "attempt": 1},
                    **{
                        "title": "",
                        "bodyMd": "",
                        "manifestSnapshot": "",
                        "engine": offer.engine,
                        "timeoutS": 60.0,
                        "repo": "sim://work",
                    },
                    "term": {"leaseLeftS": 30.0, "renewEveryS": 7.0, "startWithinS": 15.0, "now": offer.now},
                }
            )
            self.held.take(ClaimAnswer(grants=(grant,)), self.session.boot_s())
        heard(self, message)

    replace(Claiming, "heard_offer", obey)


def pushed_without_trust(replace: Patch) -> None:
    """A superseded holder pushes and publishes as if it were not."""

    def refuse_push(self: Machine, tree: Any) -> None: ...

    replace(Work, "is_trusted", lambda self: True)
    replace(Machine, "refuse_push", refuse_push)


def tidied_unsaved(replace: Patch) -> None:
    async def tidy(self: Term, end: TermEnd, *, superseded: bool) -> None:
        if end.tree is not None:
            self.tools.trees.delete(end.tree)  # type: ignore[attr-defined]

    replace(Term, "tidy", tidy)


def retry_not_charged(replace: Patch) -> None:
    replace(holder, "charged", lambda retries, outcome: retries)


MUTATIONS: tuple[Mutation, ...] = (
    Mutation("racy-store", "1", "a commit reads, waits and writes", racy_store),
    Mutation("renewed-for-anyone", "1", "a renewal is answered to any session", renewed_for_anyone, ("stray",)),
    Mutation("terms-fall", "2", "a later term has a lower epoch", terms_fall, ("crash",)),
    Mutation("epoch-not-moved", "2", "a job that comes back to the queue keeps its epoch", epoch_not_moved),
    Mutation("granted-epoch-ignored", "2", "a grant does not use its epoch up", granted_epoch_ignored),
    Mutation(
        "no-epoch-check", "3", "a report of an earlier term counts for the running one", no_epoch_check, ("stray",)
    ),
    Mutation("no-session-check", "3", "a report counts from another session", no_session_check, ("stray",)),
    Mutation("dep-forgotten", "4", "the promoter never looks at jobs with deps", dep_forgotten),
    Mutation("reaper-asleep", "5", "expired terms are never ended", reaper_asleep, ("crash",)),
    Mutation("checkpoint-lost", "5", "the reaper forgets the checkpoint", checkpoint_lost, ("crash",)),
    Mutation("outbox-dropped", "6", "what follows from a commit is not written", outbox_dropped),
    Mutation(
        "older-projection-wins",
        "6",
        "a late projection overwrites a newer one",
        older_projection_wins,
        ("store-weather", "crash-at-write"),
    ),
    Mutation("claim-not-idempotent", "7", "the repeat of a claim is a new claim", claim_not_idempotent),
    Mutation("action-repeats", "7", "the repeat of an action is an action", action_repeats),
    Mutation("repeat-refused", "7", "the repeat of what was accepted is refused", repeat_refused, ("stray",)),
    Mutation("offer-is-authority", "8", "an offer is taken for a grant", offer_is_authority),
    Mutation("bus-is-needed", "8", "without the bus nobody is answered", bus_is_needed, ("bus-outage",)),
    Mutation("lock-ignored", "9", "nobody looks at who holds the lock", lock_ignored),
    Mutation("lock-freed-at-start", "9", "the lock is given up when the work begins", lock_freed_at_start),
    Mutation(
        "lock-written-apart",
        "9",
        "the lock is written before the job, not with it",
        lock_written_apart,
        ("store-weather", "crash-at-write"),
    ),
    Mutation("pause-ignored", "10", "a paused product starts new work", pause_ignored),
    Mutation("spend-counted-twice", "10", "the ledger counts a run twice", spend_counted_twice),
    Mutation(
        "same-machine-again",
        "17",
        "a job goes back to a machine that could not do it",
        same_machine_again,
        ("machine-broken",),
    ),
    Mutation(
        "machines-fault-charged",
        "17",
        "a job pays for what its machine could not",
        machines_fault_charged,
        ("machine-broken",),
    ),
    Mutation("capability-ignored", "11", "jobs are given to any factory that asks", capability_ignored),
    Mutation("nobody-woken", "13", "no offer is made and no long-poll wakes", nobody_woken),
    Mutation(
        "pushed-without-trust", "14", "a superseded holder pushes and publishes", pushed_without_trust, ("pause",)
    ),
    Mutation("tidied-unsaved", "14", "trees are deleted whatever is in them", tidied_unsaved),
    Mutation("launcher-waits", "15", "the engine of a stopped factory runs on", launcher_waits, ("pause",)),
    Mutation("trust-without-end", "15", "a factory ignores its trust window", trust_without_end, ("pause", "cut-off")),
    Mutation(
        "reaped-unclosed", "15", "the reaper does not close the lease first", reaped_unclosed, ("pause", "cut-off")
    ),
    Mutation("gone-for-good", "15", "a factory that lost the bus alone is taken for dead", gone_for_good, ("bus-cut",)),
    Mutation(
        "reaped-too-soon",
        "15",
        "the reaper does not wait for the lease to expire",
        reaped_too_soon,
        ("pause", "cut-off"),
    ),
    Mutation(
        "op-not-looked-up",
        "truth",
        "one's own write is not recognised after a doubt",
        op_not_looked_up,
        ("store-weather",),
    ),
    Mutation(
        "doubt-is-no",
        "truth",
        "a write without an answer is taken for one that did not happen",
        doubt_is_no,
        ("store-weather",),
    ),
    Mutation(
        "doubt-is-yes",
        "truth",
        "a write without an answer is taken for one that did happen",
        doubt_is_yes,
        ("store-weather",),
    ),
    Mutation("refused-by-index", "truth", "a refusal rests on what another coordinator changed", refused_by_index),
    Mutation("report-stops-next", "truth", "a report that is refused takes the ask for work along", report_stops_next),
    Mutation("retry-not-charged", "4", "a failed try uses no retry", retry_not_charged),
)
