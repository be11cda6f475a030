"""The life of one held job, without I/O: what was heard goes in, what must become of the engine comes out.

Two clocks run: alive (the trust window, kept by heartbeats) and progressing (the engine's output).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from factory.trust import TrustWindow
from schemas.messages import Grant, HeldTerm, StopOrder, TermAnswer
from schemas.outcome import Outcome


class EndReason(StrEnum):
    """Why an engine is ended before it ends by itself."""

    TRUST_LOST = "trust_lost"
    CANCEL = "cancel"
    PREEMPT = "preempt"
    DRAIN = "drain"
    TIMEOUT = "timeout"
    STALLED = "stalled"


OUTCOME_OF: dict[EndReason, Outcome] = {
    EndReason.TRUST_LOST: Outcome.RELEASED,
    EndReason.CANCEL: Outcome.CANCELLED,
    EndReason.PREEMPT: Outcome.PREEMPTED,
    EndReason.DRAIN: Outcome.RELEASED,
    EndReason.TIMEOUT: Outcome.TIMEOUT,
    EndReason.STALLED: Outcome.STALLED,
}


@dataclass
class TermState:
    """Times are seconds on the clock since boot. `idle_limit_s`: the factory's own, None for none."""

    grant: Grant
    trust: TrustWindow
    idle_limit_s: float | None
    engine_since_s: float | None = None
    progress_s: float | None = None
    stop: StopOrder | None = None
    stop_by_s: float | None = None
    drain_by_s: float | None = None
    fenced: bool = False
    start_acknowledged: bool = False
    checkpoint_number: int = 0
    phase: str | None = None  # what is being done, in a few words

    def __post_init__(self) -> None:
        self.start_acknowledged = self.grant.started

    def engine_started(self, now_s: float) -> None:
        """A program of the term begins. The wall time counts from the first, as all of them share it."""
        if self.engine_since_s is None:
            self.engine_since_s = now_s
        self.progress_s = now_s

    def progressed(self, now_s: float) -> None:
        self.progress_s = now_s

    def heard_start(self, asked_at_s: float, answer: TermAnswer, now_s: float) -> None:
        """The start is acknowledged: from now on the lease says how long the term may be trusted."""
        self.start_acknowledged = True
        self.trust.extend(asked_at_s, answer.term.lease_left_s, now_s)
        if answer.stop is not None:
            self.heard_stop(answer.stop, now_s)

    def heard_term(self, told: HeldTerm, asked_at_s: float, now_s: float) -> None:
        """A heartbeat's answer about this term. It extends a term only once its start is acknowledged."""
        if not told.granted:
            self.heard_fenced()
        elif told.term is not None and self.start_acknowledged:
            self.trust.extend(asked_at_s, told.term.lease_left_s, now_s)
        if told.stop is not None:
            self.heard_stop(told.stop, now_s)

    def heard_stop(self, stop: StopOrder, now_s: float) -> None:
        """Cancel overrides preempt, never the reverse; a repeat of the same order never moves its deadline back."""
        if self.stop is None or (self.stop.kind == "preempt" and stop.kind == "cancel"):
            self.stop, self.stop_by_s = stop, now_s + stop.by_s

    def heard_fenced(self) -> None:
        self.fenced = True
        self.trust.end()

    def drain(self, by_s: float) -> None:
        """Let the engine finish until then."""
        self.drain_by_s = by_s if self.drain_by_s is None else min(self.drain_by_s, by_s)

    def must_end(self, now_s: float) -> EndReason | None:
        """Why the engine must not run any longer; None while it may."""
        if not self.trust.holds(now_s):
            return EndReason.TRUST_LOST
        if self.stop is not None:
            return EndReason.CANCEL if self.stop.kind == "cancel" else EndReason.PREEMPT
        if self.drain_by_s is not None and now_s >= self.drain_by_s:
            return EndReason.DRAIN
        if self.engine_since_s is not None and now_s >= self.engine_since_s + self.grant.timeout_s:
            return EndReason.TIMEOUT
        if self._stalls_s is not None and now_s >= self._stalls_s:
            return EndReason.STALLED
        return None

    def next_look_s(self) -> float:
        """When `must_end` could next give something new, if nothing is heard until then."""
        times = [self.trust.until_s]
        if self.drain_by_s is not None:
            times.append(self.drain_by_s)
        if self.engine_since_s is not None:
            times.append(self.engine_since_s + self.grant.timeout_s)
        if self._stalls_s is not None:
            times.append(self._stalls_s)
        return min(times)

    @property
    def idle_limit(self) -> tuple[float, str] | None:
        """The shortest, and where it is set."""
        limits = [(self.grant.idle_s, "idle of the manifest"), (self.idle_limit_s, "--idle-limit of the factory")]
        return min(((limit_s, where) for limit_s, where in limits if limit_s is not None), default=None)

    @property
    def _stalls_s(self) -> float | None:
        return None if self.progress_s is None or self.idle_limit is None else self.progress_s + self.idle_limit[0]

    def why_ended(self, reason: EndReason) -> str:
        """In a sentence that names the limit, where one was reached."""
        if reason is EndReason.TIMEOUT:
            return f"ended early: it ran for {self.grant.timeout_s:g} s, which is the timeout of the manifest"
        if reason is EndReason.STALLED and self.idle_limit is not None:
            return f"ended early: it printed nothing for {self.idle_limit[0]:g} s, which is the {self.idle_limit[1]}"
        return f"ended early: {reason}"

    def next_checkpoint(self) -> int:
        self.checkpoint_number += 1
        return self.checkpoint_number
