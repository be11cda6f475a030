"""Who goes first for a job that can be claimed, and until when. Pure: it is told the moment, and sets no timer.

Three things give somebody the first go: an ask of this process is at the job, a call was woken for it, or another
coordinator made it claimable and is offering it. Moments are seconds on the clock since boot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from schemas.ids import JobKey


@dataclass(slots=True)
class Precedence:
    """What is known about one job.

    `asked`: an ask of this process is at it. `passed_over`: another ask has left it to that one meanwhile.
    `promised_to`: the factory whose call was woken for it, until `promised_until_s`.
    `set_aside_until_s`: until then it is left to another coordinator; None if it is not.
    """

    asked: bool = False
    passed_over: bool = False
    promised_to: str | None = None
    promised_until_s: float = math.inf
    set_aside_until_s: float | None = None


NOBODY = Precedence()


class PrecedenceTable:
    """One record for each job for which an asker goes first. Queries change nothing."""

    def __init__(self) -> None:
        self._records: dict[JobKey, Precedence] = {}
        self._promised: dict[str, set[JobKey]] = {}  # the same promises, by factory

    def is_asked(self, key: JobKey) -> bool:
        return self._records.get(key, NOBODY).asked

    def is_promised(self, key: JobKey, now_s: float) -> bool:
        record = self._records.get(key, NOBODY)
        return record.promised_to is not None and now_s < record.promised_until_s

    def is_set_aside(self, key: JobKey, now_s: float) -> bool:
        until_s = self._records.get(key, NOBODY).set_aside_until_s
        return until_s is not None and now_s < until_s

    def next_due_s(self) -> float:
        """When `end_due` has something to end next; infinite if never."""
        dues = [record.promised_until_s for record in self._records.values() if record.promised_to is not None]
        dues += [one.set_aside_until_s for one in self._records.values() if one.set_aside_until_s is not None]
        return min(dues, default=math.inf)

    def begin_ask(self, key: JobKey) -> None:
        record = self._of(key)
        assert not record.asked, key
        record.asked = True

    def pass_over(self, key: JobKey) -> None:
        """Another ask leaves the job to the one that is at it, and wants to know if that one breaks."""
        assert self.is_asked(key), key
        self._records[key].passed_over = True

    def end_ask(self, key: JobKey) -> bool:
        """Gives whether the job was passed over meanwhile."""
        record = self._records[key]
        passed_over = record.passed_over
        record.asked = record.passed_over = False
        self._drop_if_empty(key)
        return passed_over

    def promise(self, key: JobKey, factory_id: str, until_s: float) -> None:
        self._end_promise(key)
        record = self._of(key)
        record.promised_to, record.promised_until_s = factory_id, until_s
        self._promised.setdefault(factory_id, set()).add(key)

    def withdraw(self, factory_id: str) -> None:
        """What was promised to this factory may be another's."""
        for key in list(self._promised.get(factory_id, ())):
            self._end_promise(key)

    def set_aside(self, key: JobKey, until_s: float) -> None:
        self._of(key).set_aside_until_s = until_s

    def take_back(self, key: JobKey) -> bool:
        """It is set aside no longer. Gives whether it was."""
        record = self._records.get(key)
        if record is None or record.set_aside_until_s is None:
            return False
        record.set_aside_until_s = None
        self._drop_if_empty(key)
        return True

    def end_due(self, now_s: float) -> bool:
        """Ends what is over. Gives whether a job that was set aside is everybody's now."""
        for key in [key for keys in self._promised.values() for key in keys if not self.is_promised(key, now_s)]:
            self._end_promise(key)
        over = [
            key
            for key, one in self._records.items()
            if one.set_aside_until_s is not None and one.set_aside_until_s <= now_s
        ]
        for key in over:
            self.take_back(key)
        return bool(over)

    def _of(self, key: JobKey) -> Precedence:
        return self._records.setdefault(key, Precedence())

    def _end_promise(self, key: JobKey) -> None:
        record = self._records.get(key)
        if record is None or record.promised_to is None:
            return
        keys = self._promised[record.promised_to]
        keys.discard(key)
        if not keys:
            del self._promised[record.promised_to]
        record.promised_to = None
        self._drop_if_empty(key)

    def _drop_if_empty(self, key: JobKey) -> None:
        record = self._records[key]
        if not record.asked and record.promised_to is None and record.set_aside_until_s is None:
            del self._records[key]
