"""Promise 10: a paused product starts nothing new, and spend is counted once per run. Only where budgets are on.

Decides from operators' pauses: from the answer to one until the next resume is asked, no claim is seen to commit, and
no request first asked after it is answered with a grant. And from the documents: the ledger's spent is the sum of what
the ended terms cost, its reserved that of the jobs that are held, its pause the last one that was answered.
Silent about a pause while another pause or resume of the product may still be under way, and about exhausted budgets.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import inf, isclose

from chaos.checkers.view import Ask, View, view_of
from chaos.history import History, Violation

NAME = "budgets"

SAME_S = 0.001
SAME_USD = 1e-6


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    if not view.run.budgets:
        return
    by_product: dict[str, list[Ask]] = defaultdict(list)
    for ask in view.asks.of["pause"]:
        by_product[ask.message["productId"]].append(ask)
    for product, asks in by_product.items():
        for ask in asks:
            if ask.message["paused"] and ask.done and _alone(view, ask, asks):
                yield from _started_while_paused(view, product, ask, asks)
        yield from _last_word(view, product, asks)
    if view.stored:
        yield from _ledgers(view)


def _alone(view: View, ask: Ask, asks: list[Ask]) -> bool:
    """Whether nothing that was asked before its answer could still be done after it."""
    return all(other is ask or other.index > ask.end_index or _over_before(view, other, ask) for other in asks)


def _over_before(view: View, other: Ask, ask: Ask) -> bool:
    if other.end is None or other.end.kind == "unanswered":
        return view.troubles.settled_by(other.record.at if other.end is None else other.end.at) <= ask.record.at
    return other.end_index < ask.index


def _started_while_paused(view: View, product: str, pause: Ask, asks: list[Ask]) -> Iterator[Violation]:
    assert pause.end is not None
    later = [one for one in asks if one.index > pause.end_index and not one.message["paused"]]
    resumed = min(later, key=lambda one: one.index, default=None)
    over, over_index = (resumed.record.at, resumed.index) if resumed is not None else (inf, len(view.records))
    for index, record in view.seen.all:
        if not (pause.end_index < index < over_index and pause.end.at + SAME_S < record.at < over):
            continue
        if record.data["type"] == "claimed" and record.data["productId"] == product:
            yield Violation(
                NAME, f"{product} was paused, and {record.data['jobId']} was granted", (*pause.shown, record)
            )
    for told in view.asks.told:
        if told.grant["productId"] == product and pause.end_index < told.ask.end_index < over_index:
            first = view.asks.first[told.ask.session, told.request_id]
            if first.index > pause.end_index and view.seen_claim(told.grant) is None:
                what = f"{product} was paused, and then {told.grant['jobId']} was asked for and granted"
                yield Violation(NAME, what, (*pause.shown, *told.ask.shown))


def _last_word(view: View, product: str, asks: list[Ask]) -> Iterator[Violation]:
    last = max((ask for ask in asks if ask.done), key=lambda one: one.index, default=None)
    ledger = view.docs.ledgers.get(product)
    if last is None or ledger is None or not all(other is last or _over_before(view, other, last) for other in asks):
        return
    if bool(ledger.get("paused")) != last.message["paused"]:
        what = f"the last word on {product} was paused: {last.message['paused']}; its ledger says the contrary"
        yield Violation(NAME, what, last.shown)


def _ledgers(view: View) -> Iterator[Violation]:
    spent: dict[str, float] = defaultdict(float)
    reserved: dict[str, float] = defaultdict(float)
    for job_id, job in view.docs.jobs.items():
        costs = [
            _cost(event["data"])
            for event in view.docs.events.get(job_id, ())
            if event["type"] in ("reported", "released")
        ]
        spent[job["productId"]] += sum(costs)
        reserved[job["productId"]] += job.get("reserved") or 0.0
        if not _same(job["spend"]["usd"], sum(costs)):
            yield Violation(NAME, f"{job_id} says that it cost {job['spend']['usd']}; its runs cost {sum(costs)}")
        if job.get("holder") is None and job.get("reserved"):
            yield Violation(NAME, f"{job_id} is held by nobody and has {job['reserved']} reserved")
    for product in sorted({term.product_id for term in view.docs.terms.values()}):
        ledger = view.docs.ledgers.get(product)
        if ledger is None:
            yield Violation(NAME, f"terms of {product} were granted, and it has no ledger")
            continue
        for name, counted in (("spent", spent[product]), ("reserved", reserved[product])):
            if not _same(ledger[name], counted):
                yield Violation(NAME, f"the ledger of {product} says {name} {ledger[name]}; counted are {counted}")


def _cost(data: dict[str, dict[str, float]]) -> float:
    return (data.get("insights") or {}).get("costUsd") or 0.0


def _same(one: float, other: float) -> bool:
    return isclose(one, other, rel_tol=SAME_USD, abs_tol=SAME_USD)
