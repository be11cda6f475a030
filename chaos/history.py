"""What was seen of a run from outside: what each client asked and was answered and when, what engines and work trees
did, which faults there were, and the documents at the end. The system's own bookkeeping is no part of it.

A history is a file of JSON lines (records, then documents), so that a verdict can be reached again elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

Doc = dict[str, Any]


class Record(NamedTuple):
    """`at`: seconds of true time since the run began, whatever any process' clock says. `who`: `factory:f1`,
    `operator:ann`, `coordinator:c1`, or `world`. What `data` holds depends on the kind:

    fleet       first of all: timers {leaseTtlS, heartbeatS, reaperS, skewS, grantStartS, trustMarginS, stopDeadlineS},
                budgets (bool)
    enrolled    factoryId, products, capabilities: from here on, until the next one of this factory
    up          a process begins: life (1, 2, …); a factory's also: seats, engines, capabilities, sessionId or None
    down        life, how: killed | drained | fenced | ended
    paused      life: it runs no step any more (SIGSTOP)       resumed     life
    asked       ask (unique), op, over: bus | rest | direct, to (the coordinator; None where it is not
                known), message. One record an attempt: repeats share the message's requestId or idempotency key.
                Factories' ops: hello claim start renew checkpoint report release heartbeat; the message is that of
                the wire. Operators' ops: submit {productId, idempotencyKey, manifestSha256}, act {productId, jobId,
                action, idempotencyKey}, pause {productId, paused}
    answered    ask, answer (the wire's; of submit and act {jobId, stage, opId, repeated}): it took effect
    refused     ask, error {code, message, detail}: definite, it had no effect
    unanswered  ask, why: nobody knows (also an error unavailable or internal)
    engine      does: begins | ends, life, sessionId, productId, jobId, leaseEpoch
    tree        does: made (base: a commit or None) | changed | pushed (ref, commit) | published (branch, commit)
                | deleted (clean: bool, pushed: bool) | quarantined; life, jobId, leaseEpoch
    seen        productId, jobId, seq, type, leaseEpoch, by `world`: this event's commit became visible, in the order
                of commits and before anybody was answered by it
    fault       name, does: begins | ends | once, on (what it hits), and what it takes to describe it
    offered     productId, jobId, leaseEpoch, by `world`: an offer was heard on the bus
    phase       name, does: begins | ends: a time that is measured by itself, such as `steady`
    calm        from here on there are no faults; every process that is to live is up
    converged   the run is over and nothing is left to do     gave_up     time was up; why
    """

    at: float
    kind: str
    who: str
    data: Doc

    def to_line(self) -> bytes:
        return orjson.dumps(
            {"at": self.at, "kind": self.kind, "who": self.who, **self.data}, option=orjson.OPT_SORT_KEYS
        )


@dataclass
class History:
    """`documents`: by container (fleet_jobs, fleet_events, fleet_runs, fleet_leases, fleet_factories), as they were
    read from the store when the run was over.
    """

    records: list[Record] = field(default_factory=list)
    documents: dict[str, list[Doc]] = field(default_factory=dict)

    def note(self, at: float, kind: str, who: str, **data: Any) -> None:
        self.records.append(Record(round(at, 6), kind, who, data))

    def of(self, *kinds: str) -> Iterator[Record]:
        return (record for record in self.records if record.kind in kinds)

    def lines(self) -> Iterator[bytes]:
        yield from (record.to_line() for record in self.records)
        for container in sorted(self.documents):
            for doc in sorted(self.documents[container], key=lambda one: str(one["id"])):
                yield orjson.dumps({"container": container, "document": doc}, option=orjson.OPT_SORT_KEYS)

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for line in self.lines():
            digest.update(line + b"\n")
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            file.writelines(line + b"\n" for line in self.lines())

    @classmethod
    def load(cls, path: Path) -> History:
        """Raises ValueError with the line that is none of a history."""
        history = cls()
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    history._take(orjson.loads(line))
                except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                    raise ValueError(f"{path}, line {number}: this is no line of a history: {error!r}") from error
        return history

    def _take(self, doc: Doc) -> None:
        if "container" in doc:
            self.documents.setdefault(doc["container"], []).append(doc["document"])
        else:
            self.records.append(Record(doc.pop("at"), doc.pop("kind"), doc.pop("who"), doc))


@dataclass(frozen=True)
class Violation:
    """A promise that this history shows broken. `shown_by`: the fewest records that show it, in their order."""

    checker: str
    what: str
    shown_by: tuple[Record, ...] = ()
