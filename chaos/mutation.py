"""One way to break the running code: functions replaced for as long as it is switched on; nothing is ever written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

Patch = Callable[..., None]


@dataclass(frozen=True)
class Mutation:
    """`promise`: whose breaking it is. `favours`: what it shows under, so that no time is spent on others. `breaks` is
    told `replace(owner, name, by)` for each function it replaces.
    """

    name: str
    promise: str
    story: str
    breaks: Callable[[Patch], None]
    favours: tuple[str, ...] = ()

    @contextmanager
    def on(self) -> Iterator[None]:
        with ExitStack() as stack:

            def replace(owner: Any, name: str, by: Any) -> None:
                stack.enter_context(patch.object(owner, name, by))

            self.breaks(replace)
            yield
