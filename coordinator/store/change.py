"""The one way to write: read, decide, one conditional write; doubt is settled by reading again.

A write whose answer was lost may have happened. So nothing but the next read says what is so, and no try after such a
write may answer with a definite error: the earlier one may still land.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from coordinator.store.port import Indefinite, Store, StoreError, Throttled
from runtime.entropy import Entropy
from schemas.base import Schema
from schemas.errors import ErrorCode, FleetError

TRIES_MAX = 12
BACKOFF_FIRST_S = 0.005
BACKOFF_MAX_S = 0.5
THROTTLED_MAX_S = 2.0

T = TypeVar("T")
M = TypeVar("M", bound=Schema)


class Again:
    """A try whose write met a conflict: what it read has changed."""


AGAIN: Final = Again()


@dataclass(frozen=True)
class Keep(Generic[T]):
    """The decision to write nothing, and the answer."""

    answer: T


def unknown(sentence: str, **detail: str) -> FleetError:
    """The error for a write of which nobody knows whether it happened."""
    return FleetError(ErrorCode.UNAVAILABLE, sentence, **detail)


async def settle(attempt: Callable[[int], Awaitable[T | Again]], entropy: Entropy, in_doubt: FleetError) -> T:
    """The answer of the first `attempt(number)` that has one; each reads, decides and writes at most once.

    Raises `in_doubt` where tries run out, and instead of a definite error while an earlier try may still land.
    """
    doubt = False
    for number in range(TRIES_MAX):
        trouble: Indefinite | None = None
        try:
            answer = await attempt(number)
            if not isinstance(answer, Again):
                return answer
        except Indefinite as error:
            doubt, trouble = True, error
        except StoreError as error:
            if doubt:
                raise in_doubt from error
            raise
        await pause(number, trouble, entropy)
    raise in_doubt


async def change(
    store: Store,
    container: str,
    read: Callable[[], Awaitable[tuple[M, str] | None]],
    decide: Callable[[M | None], Awaitable[M | Keep[T]]],
    entropy: Entropy,
    in_doubt: FleetError,
) -> M | T:
    """Changes one document, and gives it as it was written; or the answer of a `Keep`.

    `decide(document)`, None where there is none, gives what it is to become. It may raise. The next try
    reads what a write made whose answer was lost, and must come to the same end from it.
    """

    async def attempt(_number: int) -> M | T | Again:
        stored = await read()
        wanted = await decide(stored[0] if stored else None)
        if isinstance(wanted, Keep):
            return wanted.answer
        if stored is None:
            written = await store.create(container, wanted.to_doc())
        else:
            written = await store.update(container, wanted.to_doc(), stored[1])
        return wanted if written.ok else AGAIN

    return await settle(attempt, entropy, in_doubt)


async def pause(number: int, trouble: Indefinite | None, entropy: Entropy) -> None:
    """Before the next try: doubling, with jitter, and no shorter than a throttling store asks for."""
    wait_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2**number) * (0.5 + entropy.fraction())
    if isinstance(trouble, Throttled):
        wait_s = max(wait_s, min(trouble.retry_after_s, THROTTLED_MAX_S))
    await asyncio.sleep(wait_s)
