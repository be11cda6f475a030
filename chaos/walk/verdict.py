"""What must hold of a whole run: of what was asked and answered, and the documents at the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from chaos.history import Doc, History, Record, Violation
from schemas.ids import action_op, end_op

ENDS = ("reported", "released", "reaped")
NOT_AFTER = {"renew": ("expired",), "start": ("expired", "not_started")}
SETTLED = ("shipped", "failed", "dead_letter", "queued", "testing", "review", "blocked")


@dataclass(frozen=True)
class Ask:
    asked: Record
    reply: Record | None

    @property
    def op(self) -> str:
        return str(self.asked.data["op"])

    @property
    def message(self) -> Doc:
        message: Doc = self.asked.data["message"]
        return message

    @property
    def answer(self) -> Doc | None:
        """What it was answered with, where that says that it took effect."""
        if self.reply is None or self.reply.kind != "answered":
            return None
        answer: Doc = self.reply.data["answer"]
        return None if answer.get("reportError") else answer

    @property
    def refused(self) -> bool:
        """Whether it was told, for good, that it had no effect."""
        if self.reply is None or self.reply.kind == "unanswered":
            return False
        error = self.reply.data["answer"].get("reportError") if self.reply.kind == "answered" else True
        return bool(error) and not (isinstance(error, dict) and error["code"] in ("unavailable", "internal"))

    @property
    def shown(self) -> tuple[Record, ...]:
        return (self.asked, self.reply) if self.reply else (self.asked,)


class Run:
    """A history, looked up."""

    def __init__(self, history: History) -> None:
        replies = {one.data["ask"]: one for one in history.of("answered", "refused", "unanswered")}
        self.asks = [Ask(one, replies.get(one.data["ask"])) for one in history.of("asked")]
        self.jobs = [doc for doc in history.documents.get("fleet_jobs", []) if "stage" in doc]
        self.runs = {doc["id"]: doc for doc in history.documents.get("fleet_runs", [])}
        self._events: dict[str, list[Doc]] = defaultdict(list)
        for event in sorted(history.documents.get("fleet_events", []), key=lambda one: int(one["seq"])):
            self._events[event["jobId"]].append(event)

    def events(self, job_id: str) -> list[Doc]:
        return self._events[job_id]

    def all_events(self) -> Iterator[Doc]:
        for events in self._events.values():
            yield from events

    def of(self, *ops: str) -> Iterator[Ask]:
        return (ask for ask in self.asks if ask.op in ops)


Found = Iterator[tuple[str, tuple[Record, ...]]]


def one_holder(run: Run) -> Found:
    """The grants that were told, and the terms that were recorded, agree on who holds what."""
    holders: dict[tuple[str, int], tuple[str, ...]] = {}
    for event in run.all_events():
        if event["type"] == "claimed":
            who = (event["data"]["factoryId"], event["data"]["sessionId"], event["data"]["requestId"])
            if holders.setdefault((event["jobId"], event["leaseEpoch"]), who) != who:
                yield f"term {event['leaseEpoch']} of {event['jobId']} was claimed by two", ()
    for ask in run.of("claim"):
        said = ask.message
        who = (said["factoryId"], said["sessionId"], said["requestId"])
        for grant in (ask.answer or {}).get("grants", ()):
            if holders.get((grant["jobId"], grant["leaseEpoch"])) != who:
                yield f"{who} was told a grant that is not in the history", ask.shown


def epochs_rise(run: Run) -> Found:
    for job in run.jobs:
        epochs = [event["leaseEpoch"] for event in run.events(job["id"]) if event["type"] == "claimed"]
        if epochs != sorted(set(epochs)):
            yield f"the epochs of {job['id']} are {epochs}", ()


def history_whole(run: Run) -> Found:
    for job in run.jobs:
        events = run.events(job["id"])
        if [event["seq"] for event in events] != list(range(1, job["seq"] + 1)):
            yield f"{job['id']} is at {job['seq']}, its history is {[event['seq'] for event in events]}", ()
        stages = [None, *(event["to"] for event in events)]
        if [event["from"] for event in events] != stages[:-1] or stages[-1] != job["stage"]:
            yield f"{job['id']} is {job['stage']}, its history leads over {stages}", ()


def takes_effect_once(run: Run) -> Found:
    """Done is done, refused is not done, and nothing is done twice; but a claim may win anew once its term is over."""
    counts = Counter((event["jobId"], event["opId"]) for event in run.all_events() if event["type"] != "claimed")
    for (job_id, op_id), count in counts.items():
        if count > 1:
            yield f"{op_id} of {job_id} took effect {count} times", ()
    told = {_effect(ask) for ask in run.of("report", "release", "act") if ask.answer}
    for ask in run.of("report", "release", "act"):
        effects = [event for event in run.events(ask.message["jobId"]) if _is_of(ask, event)]
        if ask.answer and not effects:
            yield "it was answered as done and is not in the history", ask.shown
        if ask.refused and effects and _effect(ask) not in told:
            yield "it was refused and took effect", ask.shown


def _effect(ask: Ask) -> tuple[str, ...]:
    said = ask.message
    if ask.op == "act":
        return (said["jobId"], action_op(said["action"], ask.asked.who, said["idempotencyKey"]))
    return (said["jobId"], end_op(said["jobId"], said["leaseEpoch"]), ask.asked.who, said["sessionId"])


def _is_of(ask: Ask, event: Doc) -> bool:
    effect: tuple[str, ...] = (event["jobId"], event["opId"])
    if ask.op != "act":
        effect += (event["actor"], event["data"].get("sessionId"))
    return effect == _effect(ask)


def fenced(run: Run) -> Found:
    """Only the holder of a term ends it, and it ends once."""
    for job in run.jobs:
        events = run.events(job["id"])
        claimed = {event["leaseEpoch"]: event["data"] for event in events if event["type"] == "claimed"}
        ended = Counter(event["leaseEpoch"] for event in events if event["type"] in ENDS)
        for epoch in ended:
            if ended[epoch] > 1 or epoch not in claimed:
                yield f"term {epoch} of {job['id']} ended {ended[epoch]} times, of {sorted(claimed)}", ()
        for event in events:
            epoch = event["leaseEpoch"]
            if event["type"] not in ("reported", "released", "started", "checkpointed"):
                continue
            if event["data"]["sessionId"] != claimed[epoch]["sessionId"]:
                yield f"{event['type']} of term {epoch} was accepted from session {event['data']['sessionId']}", ()
            if event["type"] in ENDS and event["opId"] != end_op(job["id"], epoch):
                yield f"term {epoch} was ended by {event['opId']}", ()


def kept_alive(run: Run) -> Found:
    """A term that was just answered to live on is not ended, in the same moment, for want of life; nor one that was
    answered to have started, for want of a start.
    """
    ended = {
        (event["jobId"], event["leaseEpoch"]): (event["data"]["cause"], event["at"])
        for event in run.all_events()
        if event["type"] == "reaped"
    }
    for ask in run.of("renew", "start"):
        answer, said = ask.answer, ask.message
        if answer is None or answer["term"]["leaseLeftS"] <= 0:
            continue
        cause, at = ended.get((said["jobId"], said["leaseEpoch"]), (None, None))
        if at == answer["term"]["now"] and cause in NOT_AFTER[ask.op]:
            yield f"its {ask.op} was answered, and in the same moment its term was ended as {cause}", ask.shown


def cancelled_stays(run: Run) -> Found:
    """After a cancel a job is not queued again, unless somebody asks for it."""
    for job in run.jobs:
        cancelled = False
        for event in run.events(job["id"]):
            cancels = event["type"] == "cancelled" or event["data"].get("kind") == "cancel"
            cancelled = cancels or (cancelled and event["type"] != "requeued")
            if cancelled and event["to"] in ("queued", "assigned") and event["to"] != event["from"]:
                yield f"{job['id']} was cancelled, then {event['type']}", ()


def nothing_is_stuck(run: Run) -> Found:
    """Once everybody is gone and the loops have run, no job is held, and the documents of its runs agree."""
    for job in run.jobs:
        if job["stage"] not in SETTLED or job["holder"] is not None:
            yield f"{job['id']} is {job['stage']} for ever", ()
        if job["stage"] == "queued" and job["leaseEpoch"] <= job["grantedEpoch"]:
            yield f"{job['id']} is queued and nobody can claim it", ()
        if job["outbox"]:
            yield f"{job['id']} keeps {len(job['outbox'])} events in its outbox", ()
        for event in run.events(job["id"]):
            record = run.runs.get(f"{job['id']}:{event['leaseEpoch']}")
            if event["type"] == "claimed" and record is None:
                yield f"there is no run of term {event['leaseEpoch']} of {job['id']}", ()
            if event["type"] in ENDS and record is not None and record["endedAt"] is None:
                yield f"the run of term {event['leaseEpoch']} of {job['id']} never ended", ()


LAWS: tuple[Callable[[Run], Found], ...] = (
    one_holder, epochs_rise, history_whole, takes_effect_once, fenced, kept_alive, cancelled_stays,
    nothing_is_stuck,
)  # fmt: skip


def violations(history: History) -> Iterator[Violation]:
    run = Run(history)
    for law in LAWS:
        for what, shown_by in law(run):
            yield Violation(law.__name__, what, shown_by)
