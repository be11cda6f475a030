"""Processes, from each `up` to its `down`, and whose session is whose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import inf

from chaos.checkers.view.asks import Session
from chaos.history import Record
from schemas.factory import REST_SESSION


@dataclass(slots=True)
class Life:
    """One process from `up` to `down`."""

    who: str
    number: int
    up: Record
    down: Record | None = None
    pauses: list[Record] = field(default_factory=list)  # paused, resumed, paused, …

    @property
    def over(self) -> float:
        return self.down.at if self.down is not None else inf

    def paused(self) -> Iterator[tuple[Record, float]]:
        """Each pause, and when it ended."""
        begun: Record | None = None
        for record in self.pauses:
            if record.kind == "paused":
                begun = begun or record
            elif begun is not None:
                yield begun, record.at
                begun = None
        if begun is not None:
            yield begun, self.over


class LifeReader:
    """Reads the records up, down, paused and resumed, and who asks under which session."""

    def __init__(self) -> None:
        self.all: dict[str, list[Life]] = defaultdict(list)
        self._life_of: dict[Session, Life] = {}

    def take_up(self, _index: int, record: Record) -> None:
        life = Life(record.who, record.data.get("life", 0), record)
        self.all[record.who].append(life)
        if record.data.get("sessionId"):
            self._life_of.setdefault((record.who.partition(":")[2], record.data["sessionId"]), life)

    def take_down(self, _index: int, record: Record) -> None:
        life = self.life(record.who, record.data.get("life"))
        if life is not None:
            life.down = life.down or record

    def take_pause(self, _index: int, record: Record) -> None:
        life = self.life(record.who, record.data.get("life"))
        if life is not None:
            life.pauses.append(record)

    def take_asked(self, _index: int, record: Record) -> None:
        message = record.data["message"]
        if "sessionId" in message and record.who in self.all:
            session = message.get("factoryId", ""), message["sessionId"]
            self._life_of.setdefault(session, self.all[record.who][-1])

    def life(self, who: str, number: int | None) -> Life | None:
        """The process with this number; without one, the latest."""
        lives = self.all.get(who) or []
        return next((one for one in reversed(lives) if number is None or one.number == number), None)

    def life_of(self, session: Session) -> Life | None:
        """The process whose session it is: the first that spoke under it. A later one only delivers its reports."""
        return self._life_of.get(session)

    @cached_property
    def sessions_of(self) -> dict[tuple[str, int], list[Session]]:
        """By process and life. The session of those that open none is of no life."""
        found: dict[tuple[str, int], list[Session]] = defaultdict(list)
        for session, life in self._life_of.items():
            if session[1] != REST_SESSION:
                found[life.who, life.number].append(session)
        return found

    @property
    def coordinators(self) -> int:
        return sum(who.startswith("coordinator:") for who in self.all)

    def of_coordinators(self) -> Iterator[tuple[str, Life]]:
        """Each life of each coordinator, with the coordinator's name."""
        for who, lives in self.all.items():
            if who.startswith("coordinator:"):
                for life in lives:
                    yield who, life

    def is_factory(self, on: str) -> bool:
        return on.startswith("factory:") or f"factory:{on}" in self.all
