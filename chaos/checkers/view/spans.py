"""Stretches of time, and records in their order."""

from __future__ import annotations

from collections.abc import Iterable

from chaos.history import Record

Span = tuple[float, float]


def in_order(*records: Record) -> tuple[Record, ...]:
    """As they came, each once."""
    each = {id(record): record for record in records}
    return tuple(sorted(each.values(), key=lambda record: record.at))


def merged(spans: Iterable[Span]) -> list[Span]:
    result: list[Span] = []
    for low, high in sorted(spans):
        if result and low <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], high))
        else:
            result.append((low, high))
    return result


def without(whole: Span, holes: list[Span]) -> list[Span]:
    """What is left of `whole`; the holes are merged."""
    left: list[Span] = []
    low, high = whole
    for begun, over in holes:
        if over < low or begun > high:
            continue
        if begun > low:
            left.append((low, begun))
        low = max(low, over)
    if low < high:
        left.append((low, high))
    return left
