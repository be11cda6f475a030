"""Many claims for one job at the same moment, and what they cost the store."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import NamedTuple

from chaos.live.factory import NotedRestLink
from chaos.live.fleet import HERD_CAPABILITY, PRODUCT
from chaos.live.proxy import HOST
from chaos.live.run import LiveRun
from chaos.recording import AskRecorder, Message
from factory.link.port import Unanswered
from schemas.errors import FleetError

TIMEOUT_S = 30.0
JOBS, FACTORIES = "fleet_jobs", "fleet_factories"


class _Claimed(NamedTuple):
    link: NotedRestLink
    factory_id: str
    outcome: str
    grant: Message | None = None


async def claims_at_once(stage: LiveRun) -> None:
    """Each of the herd claims the same job by its id, which nobody else has the capability for."""
    fleet = stage.fleet
    job_id = await stage.work.hands_in(stage.work.quick(capabilities=f"[{HERD_CAPABILITY}]"))
    links: dict[str, NotedRestLink] = {}
    for name in (name for name in fleet.members if name.startswith("q")):
        token = fleet.secrets.token_file(name).read_text().strip()
        url = f"http://{HOST}:{fleet.nodes[len(links) % len(fleet.nodes)].port}"
        links[name] = NotedRestLink(url, token, TIMEOUT_S, f"factory:{name}", AskRecorder(fleet.note, f"{name}/"))
    await asyncio.sleep(2.0)
    await fleet.cosmos.requests()
    began_s = time.monotonic()
    claimed = await asyncio.gather(*(_claims(link, name, job_id) for name, link in links.items()))
    took_s = time.monotonic() - began_s
    requests = await fleet.cosmos.requests()
    outcomes = Counter(one.outcome for one in claimed)
    reads = sum(count for name, count in requests.items() if name.startswith("GET") or name.endswith("query"))
    checks = requests.get(f"GET {FACTORIES}", 0)  # a token is compared with the store's at every request
    writes = requests.get(f"PUT {JOBS}", 0) + requests.get(f"POST {JOBS}", 0)
    stage.costs |= {
        "claims": len(links),
        **{f"claims {outcome}": count for outcome, count in sorted(outcomes.items())},
        "checks of tokens": checks,
        "other reads": reads - checks,
        "conditional writes of the job": writes,
        "ms for all": round(took_s * 1e3),
    }
    stage.say(f"    {', '.join(f'{count} x {name}' for name, count in sorted(requests.items()))}")
    for one in claimed:
        if one.grant is not None:
            await _finishes(one.link, one.factory_id, one.grant)
    await asyncio.gather(*(link.close() for link in links.values()))


async def _claims(link: NotedRestLink, factory_id: str, job_id: str) -> _Claimed:
    ask = {
        "factoryId": factory_id,
        "requestId": f"{factory_id}-1",
        "productId": PRODUCT,
        "jobId": job_id,
        "engines": ["shell"],
        "capabilities": [HERD_CAPABILITY],
    }
    try:
        answer = await link.call("claim", ask)
    except FleetError as error:
        return _Claimed(link, factory_id, f"refused as {error.code}")
    except Unanswered:
        return _Claimed(link, factory_id, "unanswered")
    return _Claimed(link, factory_id, "granted", answer["grants"][0])


async def _finishes(link: NotedRestLink, factory_id: str, grant: Message) -> None:
    term = {name: grant[name] for name in ("productId", "jobId", "leaseEpoch")} | {"factoryId": factory_id}
    await link.call("start", dict(term))
    verify = [{"command": command, "rc": 0} for command in grant.get("verify", ())]
    await link.call("report", term | {"result": {"outcome": "ok", "verify": verify}})
