"""Chance, handed in: one seeded source in simulations, the operating system's in services."""

from __future__ import annotations

import random

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


class Entropy:
    """Wraps one `random.Random`; give `random.SystemRandom()` where ids must not be guessed."""

    def __init__(self, source: random.Random) -> None:
        self._source = source

    def fraction(self) -> float:
        """In [0, 1)."""
        return self._source.random()

    def token(self, length: int = 20) -> str:
        """`length` characters of five bits each, safe in ids, subjects and refs."""
        return "".join(self._source.choices(ALPHABET, k=length))


def system_entropy() -> Entropy:
    return Entropy(random.SystemRandom())
