"""What handlers and loops work with: one value, made by the composition root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from coordinator.claimants import Claimants
from coordinator.projector import Projector
from coordinator.ready import ReadyIndex
from coordinator.roster import Roster
from coordinator.scheduler.snapshot import FactoryView, Snapshot
from coordinator.store.port import Store
from coordinator.store.queries import StoredJob
from coordinator.transact import Transactor
from runtime.clock import Clock
from runtime.entropy import Entropy
from runtime.queues import KeyedQueues, SharedReads
from runtime.settings import Flags, Timers
from schemas.messages import Control, RosterNote

SendControl = Callable[[str, Control], None]
SendRoster = Callable[[str, RosterNote], None]


@dataclass
class Context:
    store: Store
    clock: Clock
    entropy: Entropy
    timers: Timers
    flags: Flags
    projector: Projector
    transactor: Transactor
    ready: ReadyIndex
    roster: Roster
    claimants: Claimants
    asks: KeyedQueues = field(default_factory=KeyedQueues)
    job_reads: SharedReads[StoredJob | None] = field(default_factory=SharedReads)
    send_control: SendControl = lambda factory_id, control: None  # best effort: heartbeats repeat it
    send_roster: SendRoster = lambda factory_id, note: None
    closing: bool = False  # the coordinator is ending: nobody waits any more
    capacity_changed: Callable[[], None] = lambda: None  # a factory came, or can take more: waiting jobs are offered

    def snapshot(self, claimant: FactoryView | None = None) -> Snapshot:
        """The moment as known here; `claimant` stands in for what the roster thinks of it."""
        views = self.roster.views()
        if claimant is not None:
            views = (*(view for view in views if view.id != claimant.id), claimant)
        return Snapshot(now=self.clock.now(), factories=views, locks=self.ready.locks())


def make_context(
    store: Store, clock: Clock, entropy: Entropy, timers: Timers | None = None, flags: Flags | None = None
) -> Context:
    """Wires what every coordinator is made of around a store."""
    timers, flags = timers or Timers(), flags or Flags()
    projector = Projector(store, timers.lease_ttl_s)
    ready = ReadyIndex()
    roster = Roster(clock, ready, timers.down_after_s)
    projector.listen(ready.note)
    projector.listen(roster.after_commit)
    return Context(
        store=store,
        clock=clock,
        entropy=entropy,
        timers=timers,
        flags=flags,
        projector=projector,
        transactor=Transactor(store, clock, entropy, projector, budgets=flags.budgets),
        ready=ready,
        roster=roster,
        claimants=Claimants(ready, roster, clock, timers.offer_round_s),
    )
