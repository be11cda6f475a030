"""`python -m tests.support.reckless_factory FILE`: a recorded factory whose engines outlive the trust in their term."""

from __future__ import annotations

from typing import Any

from chaos.live import factory
from factory.process import EngineProcess

FOR_EVER_S = 1e12

_start = EngineProcess.start


async def _start_for_ever(*args: Any, **options: Any) -> EngineProcess:
    return await _start(*args, **{**options, "deadline_s": FOR_EVER_S})


if __name__ == "__main__":
    EngineProcess.start = _start_for_ever  # type: ignore[method-assign]
    EngineProcess.move_deadline = lambda self, deadline_s: None  # type: ignore[method-assign]
    factory.main()
