"""Promise 14: work is not thrown away, and who is superseded neither pushes nor cleans up over its successor.

Decides from what was done to work trees: none is deleted that is dirty or unpushed; a push goes to the ref of its own
term, by its own factory; none pushes, publishes or deletes after a successor was told its grant, but where the term
was recovered early (see `early`), and then for at most the TTL; its own end accepted, a holder may still tidy. An
accepted checkpoint was pushed before it was told, and the next term's tree is made from the one in its grant.
Silent about terms and checkpoints of machines that no tree was recorded of, and about checkpoints that are local.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from chaos.checkers.early_recovery import DRIFT, recovered_early
from chaos.checkers.view import Ask, Told, View, view_of
from chaos.history import Doc, History, Record, Violation

NAME = "work_kept"


def check(history: History) -> Iterator[Violation]:
    view = view_of(history)
    successors = _first_told(view)
    pushed: dict[str, dict[str, int]] = defaultdict(dict)
    with_trees: set[str] = set()
    for index, record in view.run.trees:
        with_trees.add(record.who)
        wrong = _wrong(record)
        if wrong:
            yield Violation(NAME, f"{_named(record)} {wrong}", (record,))
        if record.data["does"] == "pushed":
            pushed[record.data["jobId"]].setdefault(record.data["commit"], index)
        elif record.data["does"] == "made":
            yield from _made(view, record)
        yield from _over_successor(view, index, record, successors)
    for ask, checkpoint in _told_checkpoints(view):
        if (
            ask.record.who in with_trees
            and pushed[ask.message["jobId"]].get(checkpoint["commit"], ask.index) >= ask.index
        ):
            what = (
                f"{ask.op} of term {ask.message['leaseEpoch']} of {ask.message['jobId']} told of {checkpoint['commit']}"
            )
            yield Violation(NAME, f"{what}, which had not been pushed", ask.shown)


def _named(record: Record) -> str:
    return f"{record.who}: the tree of term {record.data['leaseEpoch']} of {record.data['jobId']}"


def _wrong(record: Record) -> str | None:
    data = record.data
    if data["does"] == "deleted" and not (data["clean"] and data["pushed"]):
        return f"was deleted, clean: {data['clean']}, pushed: {data['pushed']}"
    if data["does"] == "pushed" and data["ref"] != f"refs/gigafactory/{data['jobId']}/{data['leaseEpoch']}":
        return f"was pushed to {data['ref']}"
    return None


def _made(view: View, record: Record) -> Iterator[Violation]:
    """From the checkpoint that its grant told of."""
    told = view.asks.told_of.get((record.data["jobId"], record.data["leaseEpoch"]), [])
    checkpoints = [one.grant.get("checkpoint") for one in told if f"factory:{one.ask.session[0]}" == record.who]
    commits = {one["commit"] for one in checkpoints if one is not None}
    if checkpoints and None not in checkpoints and record.data["base"] not in commits:
        what = f"{_named(record)} was made from {record.data['base']}, granted was {sorted(commits)}"
        yield Violation(NAME, what, (*told[0].ask.shown, record))


def _first_told(view: View) -> dict[str, list[Told]]:
    """By job, who first heard of each term, in the order of terms."""
    found: dict[str, list[Told]] = defaultdict(list)
    for key in sorted(view.asks.told_of):
        found[key[0]].append(min(view.asks.told_of[key], key=lambda told: told.ask.end_index))
    return found


def _over_successor(view: View, index: int, record: Record, successors: dict[str, list[Told]]) -> Iterator[Violation]:
    data = record.data
    if data["does"] not in ("pushed", "published", "deleted") or data.get("local"):
        return  # what stays on its own machine is in nobody's way
    term = view.docs.terms.get((data["jobId"], data["leaseEpoch"]))
    if term is None:
        return
    if f"factory:{term.session[0]}" != record.who:
        what = f"{_named(record)} was {data['does']}; that term is {term.session[0]}'s"
        yield Violation(NAME, what, (record, *view.seen.shown(term.claimed)))
        return
    after = [
        one for one in successors[term.job_id] if one.grant["leaseEpoch"] > term.epoch and one.ask.end_index < index
    ]
    tidies = data["does"] == "deleted" and term.cause is None
    if not after or tidies:
        return
    ended = view.seen.event(term.end)
    limit = view.run.timer("leaseTtlS", 60.0) * (1 + DRIFT)
    if recovered_early(view, term, record.at) and (ended is None or record.at <= ended[1].at + limit):
        return
    what = f"{_named(record)} was {data['does']} after term {after[0].grant['leaseEpoch']} was granted to "
    yield Violation(NAME, f"{what}{after[0].ask.session[0]}", (*after[0].ask.shown, record))


def _told_checkpoints(view: View) -> Iterator[tuple[Ask, Doc]]:
    """Those that were accepted and are not local."""
    for ask in view.asks.of["checkpoint"]:
        if ask.done and not ask.message.get("local"):
            yield ask, ask.message
    for op in ("report", "release"):
        for ask in view.asks.of[op]:
            checkpoint = ask.message.get("checkpoint")
            if checkpoint is not None and ask.done and not checkpoint.get("local"):
                yield ask, checkpoint
