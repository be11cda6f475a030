"""What the processes of a simulated fleet have in common: true time, the store, the wires, the remote, the history."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos.history import Doc, History
from chaos.machines import Remote
from chaos.plan import Plan
from chaos.recording import AskRecorder
from chaos.stores import SeenStore
from chaos.wires import ProcessBroker, Rest
from coordinator.store.port import JOBS, Address
from runtime.entropy import Entropy
from schemas.ids import JobKey


class Environment:
    """`folder`: for what processes keep on disk. `lives_of_factories` counts the starts of all of them."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.history = History()
        self.ask_recorder = AskRecorder(self.note)
        self.store = SeenStore(self.history, atomic_then=plan.atomic_then)
        self.broker = ProcessBroker(Entropy(random.Random(f"broker {plan.seed}")))
        self.rest = Rest([], random.Random(f"rest {plan.seed}"))
        self.remote = Remote()
        self.lives_of_factories = 0
        self.faults: Counter[str] = Counter()

    def note(self, kind: str, who: str, **data: Any) -> None:
        self.history.note(asyncio.get_running_loop().time(), kind, who, **data)

    def later(self, delay_s: float, act: Callable[[], object]) -> None:
        """In no process' step."""
        asyncio.get_running_loop().call_later(max(0.0, delay_s), act, context=contextvars.Context())

    async def job(self, key: JobKey) -> Doc | None:
        stored = await self.store.read(Address(JOBS, key.product_id, key.job_id))
        return stored.doc if stored else None
