"""One factory put together from its parts, whatever adapters these are."""

from __future__ import annotations

from typing import NamedTuple

from bus.port import Bus
from factory.agent import Agent, AgentSettings
from factory.asking import Asking
from factory.holding import Holdings, HoldingSettings
from factory.link.failover import FailoverLink
from factory.logs import SendChunk
from factory.outbox import Outbox
from factory.ports import Trees
from factory.wire import Wire
from runtime.clock import Clock


class Assembled(NamedTuple):
    agent: Agent
    holdings: Holdings
    asking: Asking


def assembled(
    settings: AgentSettings,
    holding: HoldingSettings,
    *,
    wire: Wire,
    link: FailoverLink,
    bus: Bus,
    clock: Clock,
    trees: Trees,
    outbox: Outbox,
    send_log: SendChunk,
    long_poll_s: float,
) -> Assembled:
    """Nothing of it runs yet: see `Agent.open_session` and `run`. A seat that becomes free is asked for at once."""
    holdings = Holdings(holding, wire, clock, trees, outbox, send_log, on_free=lambda: asking.look_again())
    asking = Asking(
        wire,
        link,
        holdings,
        seats=settings.seats,
        capabilities=settings.capabilities,
        engines=frozenset(settings.engines),
        long_poll_s=long_poll_s,
    )
    return Assembled(Agent(settings, wire, link, bus, holdings, asking), holdings, asking)
