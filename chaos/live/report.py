"""What a live run came to: a table, the goals, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from chaos.checkers.registry import violations
from chaos.history import Violation
from chaos.live import measures
from chaos.live.measures import Measured, measured
from chaos.live.run import Played
from chaos.percentiles import Percentiles

DOUBLE = frozenset({"one_holder", "rising_terms", "one_engine"})
OFFERS_MAX, CONFLICTS_MAX = 1.2, 0.1
REST_SLACK_S = 7.0


@dataclass(frozen=True)
class Judged:
    """One scenario's run, its history on disk, and what it shows."""

    played: Played
    measured: Measured
    violations: list[Violation]
    history_file: Path

    @property
    def double(self) -> int:
        return sum(violation.checker in DOUBLE for violation in self.violations)

    @property
    def good(self) -> bool:
        return not self.violations and not self.measured.lost

    @property
    def verdict(self) -> str:
        if self.good:
            return "all promises kept"
        return f"{len(self.violations)} violations, {self.measured.lost} jobs lost"


def judged(played: Played, history_file: Path) -> Judged:
    played.history.save(history_file)
    return Judged(played, measured(played.history), violations(played.history), history_file)


def goals(one: Judged) -> Iterator[tuple[str, bool]]:
    """In a sentence each, and whether it is met: how fast, of a fleet of ten; and what it costs. No promises."""
    ttl_s = one.played.scenario.shape.lease_ttl_s
    limits = {
        measures.KILLED_TO_START: ("p99", 5.0),
        measures.KILLED_TO_START_REST: ("max", ttl_s + REST_SLACK_S),
        measures.STOPPED_TO_START: ("max", ttl_s + REST_SLACK_S),
        measures.CUT_OFF_TO_START: ("max", ttl_s + REST_SLACK_S),
        measures.BROKER_TO_REST: ("max", 1.0),
        measures.BROKER_BACK: ("max", 1.0),
    }
    for spread in one.measured.recoveries:
        if spread.what in limits and not one.played.scenario.shape.hive:
            which, limit_s = limits[spread.what]
            found_s = spread.p99 if which == "p99" else spread.max
            yield f"{spread.what}: {which} {found_s:.2f} s, at most {limit_s:g} s", found_s <= limit_s
    steady = one.measured.steady
    if steady is not None:
        offers, conflicts = steady.offers_per_start, steady.conflicts_per_start
        yield f"offers per started job, steady: {offers:.2f}, at most {OFFERS_MAX}", offers <= OFFERS_MAX
        yield f"conflicts per started job, steady: {conflicts:.2f}, at most {CONFLICTS_MAX}", conflicts <= CONFLICTS_MAX
    costs = one.played.costs
    if "claims" in costs:
        writes, reads = costs["conditional writes of the job"], costs["other reads"]
        found = f"{writes} conditional write, {reads} reads beside {costs['checks of tokens']} checks of tokens"
        yield f"{costs['claims']} claims for one job: {found}", writes == 1 and reads <= costs["claims"]


def told(one: Judged) -> Iterator[str]:
    """Line by line, for people."""
    found = one.measured
    faults = ", ".join(f"{count} x {name}" for name, count in sorted(found.faults.items())) or "none"
    yield f"    did: {found.jobs} jobs, {found.finished} finished; faults: {faults}"
    for spread in found.recoveries:
        yield f"    {spread.what}: {_times(spread)} ({spread.samples} times)"
    if one.played.costs:
        yield f"    costs: {', '.join(f'{name} {count}' for name, count in one.played.costs.items())}"
    for sentence, met in goals(one):
        yield f"    goal {'met' if met else 'MISSED'}: {sentence}"
    for violation in one.violations:
        yield f"    VIOLATED {violation.checker}: {violation.what}"
        for record in violation.shown_by:
            yield f"        {record.to_line().decode()}"
    yield f"    verdict: {one.verdict}; history: {one.history_file}"


def _times(spread: Percentiles) -> str:
    return f"p50 {spread.p50:.2f}, p99 {spread.p99:.2f}, max {spread.max:.2f} s"


def tabled(all_of_them: list[Judged]) -> Iterator[Table]:
    table = Table(
        "scenario", "s", "jobs", "faults", "offers/start", "conflicts/start", "lost", "double", "violations",
        title="Live chaos",
    )  # fmt: skip
    for one in all_of_them:
        found = one.measured
        table.add_row(
            one.played.scenario.name,
            f"{one.played.seconds:.0f}",
            str(found.jobs),
            str(found.faults.total()),
            f"{found.whole.offers_per_start:.2f}",
            f"{found.whole.conflicts_per_start:.2f}",
            str(found.lost),
            str(one.double),
            str(len(one.violations)),
        )
    yield table
    table = Table("scenario", "recovery", "times", "p50 s", "p99 s", "max s", title="Recovery")
    for one in all_of_them:
        for spread in one.measured.recoveries:
            times = (f"{seconds:.2f}" for seconds in (spread.p50, spread.p99, spread.max))
            table.add_row(one.played.scenario.name, spread.what, str(spread.samples), *times)
    yield table
