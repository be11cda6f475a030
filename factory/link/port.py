"""What a link is: a call that is answered, refused for good, or not answered."""

from __future__ import annotations

from typing import Any, Protocol


class Unanswered(Exception):
    """Nobody answered: it may have been heard. Ask again with the same ids."""


class Link(Protocol):
    """`connected`: whether it is worth a try."""

    @property
    def connected(self) -> bool: ...

    async def call(self, op: str, message: dict[str, Any]) -> dict[str, Any]:
        """The answer. Raises FleetError for a refusal, Unanswered for none."""
