"""A simulated fleet: its coordinators, factories and clients in their surroundings."""

from __future__ import annotations

from pathlib import Path

from chaos.clients import Operator
from chaos.environment import Environment
from chaos.nodes import CoordinatorNode, FactoryNode
from chaos.plan import Plan


class Fleet(Environment):
    """Made and not started. `twins`: second machines with the identity of a factory."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        super().__init__(plan, folder)
        self.coordinators = [CoordinatorNode(self, one) for one in plan.coordinators]
        self.rest.nodes.extend(self.coordinators)
        self.factories = {one.id: FactoryNode(self, one) for one in plan.factories if not one.by_rest_alone}
        self.twins: list[FactoryNode] = []
        self.operator = Operator(self)
