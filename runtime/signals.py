"""Something that happens again and again inside one process, and who hears of it."""

from __future__ import annotations

from collections.abc import Callable


class Signal:
    """Listeners are called at once, in the order in which they were registered. They must neither raise nor await."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def announce(self) -> None:
        for listener in self._listeners:
            listener()
