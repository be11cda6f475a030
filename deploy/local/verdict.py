"""Pure: what the histories of jobs say about them, judged from their events alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from schemas.events import TERM_ENDS


class Verdict(NamedTuple):
    """`double_held`: grants made while an earlier term had not ended, or of an epoch granted before."""

    jobs: int
    finished: int
    lost: int
    double_held: int
    recovered: int

    @property
    def good(self) -> bool:
        return self.finished == self.jobs and not self.lost and not self.double_held and self.recovered > 0


def judge(histories: Iterable[Sequence[dict[str, Any]]]) -> Verdict:
    jobs = finished = lost = double_held = recovered = 0
    for events in histories:
        jobs += 1
        whole = [event["seq"] for event in events] == list(range(1, len(events) + 1))
        shipped = whole and events[-1]["to"] == "shipped"
        finished += shipped
        lost += not shipped
        double_held += _double_grants(events)
        recovered += shipped and any(_was_lost(event) for event in events)
    return Verdict(jobs, finished, lost, double_held, recovered)


def _was_lost(event: dict[str, Any]) -> bool:
    return bool(event["type"] == "reaped" and event["data"]["outcome"] == "lost")


def _double_grants(events: Sequence[dict[str, Any]]) -> int:
    held, last_epoch, doubles = False, 0, 0
    for event in events:
        if event["type"] == "claimed":
            doubles += held or event["leaseEpoch"] <= last_epoch
            held, last_epoch = True, event["leaseEpoch"]
        elif event["type"] in TERM_ENDS:
            held = False
    return doubles
