"""The trust window of one term: the holder stops by itself before the coordinator would give its job away.

Trust counts from when this side *asked*, on a clock that counts sleep, and once it has run out no answer,
however welcome, brings it back.
"""

from __future__ import annotations

from schemas.messages import TermTimes


class TrustWindow:
    def __init__(self, asked_at_s: float, term: TermTimes, margin_s: float, *, started: bool = False) -> None:
        """`started`: the grant is of a term that had begun (the repeat of a claim); else it must start in time."""
        window_s = term.lease_left_s if started else min(term.lease_left_s, term.start_within_s)
        self._margin_s = margin_s
        self._until_s = asked_at_s + window_s - margin_s
        self._lost = False

    @property
    def until_s(self) -> float:
        """On the clock since boot; never again above the past once trust is lost."""
        return self._until_s

    def holds(self, now_s: float) -> bool:
        if now_s >= self._until_s:
            self._lost = True
        return not self._lost

    def extend(self, asked_at_s: float, lease_left_s: float, now_s: float) -> bool:
        """By an acknowledged start or renewal that was asked for then. False: too late, trust is gone for good."""
        if not self.holds(now_s):
            return False
        self._until_s = max(self._until_s, asked_at_s + lease_left_s - self._margin_s)
        return True

    def end(self) -> None:
        """The coordinator says that the term is over."""
        self._lost = True
