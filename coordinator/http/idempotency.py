"""The header by which a request may be repeated."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header

from schemas.ids import KEY_LENGTH_MAX

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=KEY_LENGTH_MAX,
        description="The same key does it once, however often it is asked.",
    ),
]
