"""One factory put together from its parts, whatever adapters these are."""

from __future__ import annotations

from typing import NamedTuple

from bus.port import Bus
from factory.agent import Agent, AgentSettings
from factory.claiming import Claiming
from factory.held_terms import HeldTerms, HeldTermsSettings
from factory.link.failover import FailoverLink
from factory.outbox import Outbox
from factory.ports import Trees
from factory.session import Session
from factory.term_log import SendChunk
from runtime.clock import Clock


class Assembled(NamedTuple):
    agent: Agent
    held: HeldTerms
    claiming: Claiming


def assembled(
    settings: AgentSettings,
    holding: HeldTermsSettings,
    *,
    session: Session,
    link: FailoverLink,
    bus: Bus,
    clock: Clock,
    trees: Trees,
    outbox: Outbox,
    send_log: SendChunk,
    long_poll_s: float,
) -> Assembled:
    """Nothing of it runs yet: see `Agent.open_session` and `run`. A seat that becomes free is asked for at once."""
    held = HeldTerms(holding, session, clock, trees, outbox, send_log, on_free=lambda: claiming.look_again())
    claiming = Claiming(
        session,
        link,
        held,
        seats=settings.seats,
        capabilities=settings.capabilities,
        engines=frozenset(settings.engines),
        long_poll_s=long_poll_s,
    )
    return Assembled(Agent(settings, session, link, bus, held, claiming), held, claiming)
