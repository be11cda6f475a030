"""What handlers, loops and routes work with: the parts of one coordinator, complete when it is made (`assembly`)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from bus.port import Bus
from coordinator.dispatch.precedence import PrecedenceTable
from coordinator.dispatch.ready import ReadyIndex
from coordinator.dispatch.roster import Roster
from coordinator.dispatch.waiters import Waiters
from coordinator.projector import Projector
from coordinator.publisher import Publisher
from coordinator.scheduler.snapshot import FactoryView, Snapshot
from coordinator.store.port import Store
from coordinator.store.queries import StoredJob
from coordinator.term_logs import LogFiles
from coordinator.transact import Transactor
from coordinator.watchers import Watchers
from runtime.clock import Clock
from runtime.entropy import Entropy
from runtime.queues import KeyedQueues, SharedReads
from runtime.settings import Flags, Timers
from runtime.signals import Signal


@dataclass(frozen=True)
class Context:
    """`alone`: no other coordinator shares the store. `capacity`: a factory came, or can take more than before.
    `asks`: the asks of one factory take turns. `closing` is set once the coordinator is ending: no call is held open.
    """

    store: Store
    bus: Bus
    clock: Clock
    entropy: Entropy
    timers: Timers
    flags: Flags
    alone: bool
    projector: Projector
    transactor: Transactor
    ready: ReadyIndex
    roster: Roster
    precedence: PrecedenceTable
    waiters: Waiters
    publisher: Publisher
    watchers: Watchers
    logs: LogFiles
    capacity: Signal = field(default_factory=Signal)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    asks: KeyedQueues = field(default_factory=KeyedQueues)
    job_reads: SharedReads[StoredJob | None] = field(default_factory=SharedReads)

    def snapshot(self, claimant: FactoryView | None = None) -> Snapshot:
        """The moment as known here; `claimant` stands in for what the roster thinks of it."""
        views = self.roster.views()
        if claimant is not None:
            views = (*(view for view in views if view.id != claimant.id), claimant)
        return Snapshot(now=self.clock.now(), factories=views, locks=self.ready.locks())
