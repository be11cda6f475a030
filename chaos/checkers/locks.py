"""Promise 9: at most one job per (product, lock) is assigned or building.

Decides from the order in which commits were seen: the claim of one job never comes between the claim and the end of
another with that lock. And, with no word of the world, from times at which a term was certainly open: from its first
grant's answer until the last ask of its holder that was accepted.
Silent about jobs whose document is not there, since it names the lock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from chaos.checkers.view import Ask, TermKey, View, view_of
from chaos.history import History, Record, Violation
from schemas.events import TERM_ENDS

NAME = "locks"

Lock = tuple[str, str]


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    lock_of = {job["id"]: (job["productId"], job["lock"]) for job in view.docs.jobs.values() if job.get("lock")}
    yield from _by_order(view, lock_of)
    yield from _by_certain_holds(view, lock_of)


def _by_order(view: View, lock_of: dict[str, Lock]) -> Iterator[Violation]:
    taken: dict[Lock, Record] = {}
    for _, record in view.seen.all:
        lock = lock_of.get(record.data["jobId"])
        if lock is None:
            continue
        if record.data["type"] == "claimed":
            other = taken.get(lock)
            if other is not None and other.data["jobId"] != record.data["jobId"]:
                what = (
                    f"{record.data['jobId']} was granted while {other.data['jobId']} held lock {lock[1]} of {lock[0]}"
                )
                yield Violation(NAME, what, (other, record))
            taken[lock] = record
        elif record.data["type"] in TERM_ENDS and lock in taken and taken[lock].data["jobId"] == record.data["jobId"]:
            del taken[lock]


def _by_certain_holds(view: View, lock_of: dict[str, Lock]) -> Iterator[Violation]:
    proof = _last_proofs(view, lock_of)
    holds: dict[Lock, list[tuple[float, float, TermKey]]] = defaultdict(list)
    for key, ask in proof.items():
        begun = min(told.at for told in view.asks.told_of[key])
        if begun < ask.record.at:
            holds[lock_of[key[0]]].append((begun, ask.record.at, key))
    for lock, spans in holds.items():
        spans.sort()
        longest = spans[0]
        for span in spans[1:]:
            if span[0] < longest[1] and span[2][0] != longest[2][0]:
                what = f"{longest[2][0]} and {span[2][0]} both held lock {lock[1]} of {lock[0]} at {span[0]:.3f}"
                first = min(view.asks.told_of[span[2]], key=lambda told: told.at)
                yield Violation(NAME, what, (*first.ask.shown, *proof[longest[2]].shown))
            longest = max(longest, span, key=lambda one: one[1])


def _last_proofs(view: View, lock_of: dict[str, Lock]) -> dict[TermKey, Ask]:
    """The last ask of each term that shows it open: one that was answered with the term's times, or the end's first."""
    last: dict[TermKey, Ask] = {}
    for op in ("start", "renew", "checkpoint", "report", "release"):
        for ask in view.asks.of[op]:
            key = ask.message["jobId"], ask.message["leaseEpoch"]
            if ask.done and key in view.asks.told_of and key[0] in lock_of:
                proof = view.asks.ends_of[key, ask.session][0] if op in ("report", "release") else ask
                if key not in last or last[key].index < proof.index:
                    last[key] = proof
    return last
