"""What is done to live fleets, by name."""

from __future__ import annotations

import asyncio

from chaos.live.fleet import Shape
from chaos.live.stage import Scenario, Stage


async def zombie(stage: Stage) -> None:
    """Holders are stopped for longer than their leases last, and wake up when somebody else has their jobs."""
    fleet, work = stage.fleet, stage.work
    flow = asyncio.create_task(work.flows(30, 0.5))
    for _ in range(4):
        await work.hands_in(work.long(8.0))
    await asyncio.sleep(2.0)
    holders = fleet.holders()
    victims = fleet.chance.sample(holders, min(4, len(holders)))
    for victim in victims:
        stage.say(f"{victim.id} is stopped")
        victim.pause()
        await asyncio.sleep(0.5)
    await asyncio.sleep(18.0)
    for victim in victims:
        victim.resume()
    stage.say("they wake up")
    await flow


SCENARIOS = (Scenario("zombie", "holders are stopped, superseded, and wake up", Shape(), zombie),)
