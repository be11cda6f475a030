"""What is known of each factory: its document, and when it was last heard of. Silence stops offers, nothing else."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from coordinator.dispatch.ready import ReadyIndex
from coordinator.scheduler.snapshot import FactoryView
from runtime.clock import Clock
from schemas.events import EventType, Reported
from schemas.factory import FactoryDoc, Health
from schemas.job import Job
from schemas.messages import Holding
from schemas.outcome import Outcome
from schemas.projections import EventDoc

REPOS_REMEMBERED = 8


@dataclass(frozen=True)
class Entry:
    doc: FactoryDoc
    heard_at_s: float | None = None  # on the clock since boot; None: never by this coordinator
    stored_at_s: float | None = None
    phases: Mapping[tuple[str, int], str] = field(default_factory=dict)  # of terms, as last heard
    last_repos: deque[str] = field(default_factory=lambda: deque(maxlen=REPOS_REMEMBERED))


class _Viewed(NamedTuple):
    """A view with its inputs: it stays valid while they are the same."""

    doc: FactoryDoc
    made_of: tuple[int, Health, tuple[str, ...]]
    view: FactoryView


class Roster:
    def __init__(self, clock: Clock, ready: ReadyIndex, down_after_s: float) -> None:
        self._clock = clock
        self._ready = ready
        self._down_after_s = down_after_s
        self._entries: dict[str, Entry] = {}
        self._views: dict[str, _Viewed] = {}
        self._in_order: list[str] = []

    def note(self, doc: FactoryDoc, *, heard: bool, stored: bool = False) -> None:
        """An older revision of the document than the one known changes only when it was heard."""
        now_s = self._clock.boot_s()
        entry = self._entries.get(doc.id) or Entry(doc)
        if doc.id not in self._entries:
            bisect.insort(self._in_order, doc.id)
        known, told = (entry.doc.session_no, entry.doc.rev), (doc.session_no, doc.rev)
        newer = told > known or (told == known and heard)  # what was heard is newer than the store's copy of it
        self._entries[doc.id] = replace(
            entry,
            doc=doc if newer else entry.doc,
            heard_at_s=now_s if heard else entry.heard_at_s,
            stored_at_s=now_s if stored else entry.stored_at_s,
        )

    def note_holding(self, factory_id: str, holding: Iterable[Holding]) -> None:
        """What a factory says that it does in its terms."""
        entry = self._entries.get(factory_id)
        if entry is not None:
            phases = {(one.job_id, one.lease_epoch): one.phase for one in holding if one.phase is not None}
            self._entries[factory_id] = replace(entry, phases=phases)

    def phase_of(self, job: Job) -> str | None:
        """What is being done in its term, as far as it was heard."""
        entry = self._entries.get(job.holder.factory_id) if job.holder is not None else None
        return entry.phases.get((job.id, job.lease_epoch)) if entry is not None else None

    def heard(self, factory_id: str) -> None:
        """Any authenticated call is a sign of life."""
        entry = self._entries.get(factory_id)
        if entry is not None:
            self._entries[factory_id] = replace(entry, heard_at_s=self._clock.boot_s())

    def gone(self, factory_id: str) -> None:
        """The broker or the factory itself says that it left: down until heard of again."""
        entry = self._entries.get(factory_id)
        if entry is not None:
            self._entries[factory_id] = replace(entry, heard_at_s=None)

    def get(self, factory_id: str) -> Entry | None:
        return self._entries.get(factory_id)

    def health(self, entry: Entry) -> Health:
        if entry.heard_at_s is None or self._clock.boot_s() - entry.heard_at_s > self._down_after_s:
            return Health.DOWN
        return entry.doc.health

    def view(self, entry: Entry) -> FactoryView:
        held = self._ready.count_held_by(entry.doc.id)
        health = self.health(entry)
        known = self._views.get(entry.doc.id)
        made_of = held, health, tuple(entry.last_repos)
        if known is not None and known.doc is entry.doc and known.made_of == made_of:
            return known.view
        view = FactoryView.of(entry.doc, seats_used=held, health=health, last_repos=frozenset(entry.last_repos))
        self._views[entry.doc.id] = _Viewed(entry.doc, made_of, view)
        return view

    def views(self) -> tuple[FactoryView, ...]:
        return tuple(self.view(entry) for entry in self.entries())

    def entries(self) -> list[Entry]:
        return [self._entries[factory_id] for factory_id in self._in_order]

    def after_commit(self, job: Job, events: tuple[EventDoc, ...]) -> None:
        """A repo that a factory finished work on is known to it: affinity."""
        finished = any(
            event.type == EventType.REPORTED and Reported.of(event).outcome == Outcome.OK for event in events
        )
        entry = self._entries.get(job.last_factory_id or "")
        if finished and entry is not None and job.repo is not None and job.repo not in entry.last_repos:
            entry.last_repos.append(job.repo)
