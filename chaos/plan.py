"""What one seed stands for: the fleet, its work, what people do to it, and every fault with its hour. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

PRODUCTS = ("shop", "bank")
WORK_S = 60.0  # in which jobs are submitted
TROUBLE_S = 110.0  # in which faults begin; they end before CALM_S
CALM_S = 150.0
TTL_S = 30.0
CAPABILITIES = ("gpu", "signing")
LOCKS = ("deploy", "schema")


@dataclass(frozen=True)
class FactoryPlan:
    """`skew_s` is the wall clock's error, `drift` how much faster than true time its clocks run."""

    id: str
    seats: int
    products: tuple[str, ...]
    capabilities: tuple[str, ...]
    skew_s: float
    drift: float
    by_rest_alone: bool = False  # a client in sh: no heartbeat, no bus, session `rest`

    @property
    def bus_key(self) -> str:
        return f"key-of-{self.id}"


@dataclass(frozen=True)
class CoordinatorPlan:
    id: str
    skew_s: float


@dataclass(frozen=True)
class JobPlan:
    """`deps` are idempotency keys of earlier jobs of the product."""

    at_s: float
    key: str
    product_id: str
    front: dict[str, Any]

    def manifest(self) -> bytes:
        lines = "".join(f"{name}: {value}\n" for name, value in self.front.items())
        return f"---\n{lines}---\nthe work of {self.key}\n```sh\ntrue\n```\n".encode()


@dataclass(frozen=True)
class Act:
    """What an operator does: an action on the job of `key`, or pause and resume of a product.

    `again_s`: so much later it is said once more, under the same idempotency key.
    """

    at_s: float
    action: str
    product_id: str
    key: str = ""
    again_s: float | None = None


@dataclass(frozen=True)
class Fault:
    """`on`: a process, `bus`, `store`, or nothing in particular. `for_s` 0: it happens once."""

    at_s: float
    name: str
    on: str = ""
    for_s: float = 0.0
    how: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    seed: int
    coordinators: tuple[CoordinatorPlan, ...]
    factories: tuple[FactoryPlan, ...]
    jobs: tuple[JobPlan, ...]
    acts: tuple[Act, ...]
    faults: tuple[Fault, ...]
    atomic_then: bool  # whether the store projects in the commit's own transaction
    budgets: bool


def plan_of(seed: int, favours: tuple[str, ...] = ()) -> Plan:
    """`favours`: faults of these kinds alone, and more of them."""
    chance = random.Random(f"plan {seed}")
    coordinators = tuple(
        CoordinatorPlan(f"c{number}", chance.uniform(-0.9, 0.9))
        for number in range(1, chance.choice((1, 2, 2, 2, 3)) + 1)
    )
    budgets = chance.random() < 0.3
    factories = _factories(chance)
    jobs = _jobs(chance, budgets)
    return Plan(
        seed=seed,
        coordinators=coordinators,
        factories=factories,
        jobs=jobs,
        acts=_acts(chance, jobs, budgets),
        faults=_faults(chance, coordinators, factories, favours),
        atomic_then=chance.random() < 0.5,
        budgets=budgets,
    )


def _factories(chance: random.Random) -> tuple[FactoryPlan, ...]:
    """Mostly small fleets, which are quick; every twentieth is large. The first can do everything."""
    count = chance.randrange(12, 31) if chance.random() < 0.05 else chance.randrange(3, 8)
    made = []
    for number in range(1, count + 1):
        everything = number == 1
        capabilities = CAPABILITIES if everything else tuple(one for one in CAPABILITIES if chance.random() < 0.4)
        products = PRODUCTS if everything or chance.random() < 0.6 else (chance.choice(PRODUCTS),)
        by_rest = not everything and chance.random() < 0.2
        made.append(
            FactoryPlan(
                id=f"f{number}",
                seats=1 if by_rest else chance.choice((1, 1, 2, 3)),
                products=products,
                capabilities=capabilities,
                skew_s=chance.choice((0.0, chance.uniform(-300, 300))),
                drift=chance.uniform(-0.008, 0.008),
                by_rest_alone=by_rest,
            )
        )
    return tuple(made)


def _jobs(chance: random.Random, budgets: bool) -> tuple[JobPlan, ...]:
    made: list[JobPlan] = []
    for number in range(chance.randrange(8, 26)):
        product = PRODUCTS[0] if chance.random() < 0.7 else PRODUCTS[1]
        front: dict[str, Any] = {"engine": "shell", "repo": "sim://work", "verify": "check", "ship": "auto"}
        if chance.random() < 0.15:
            del front["repo"]
        if chance.random() < 0.4:
            front["lock"] = chance.choice(LOCKS)
        if chance.random() < 0.2:
            front["capabilities"] = f"[{chance.choice(CAPABILITIES)}]"
        front["priority"] = chance.choice(("critical", "high", "normal", "normal", "low"))
        if chance.random() < 0.15:
            front["review"] = 1
        if chance.random() < 0.1:
            front["ship"] = "manual"
        front["retries"] = f"{{max: {chance.randrange(3)}, backoff: {chance.choice((1, 5))}s}}"
        front["timeout"] = chance.choice(("20s", "60s", "60s"))
        earlier = [job.key for job in made if job.product_id == product]
        if earlier and chance.random() < 0.25:
            deps = chance.sample(earlier, min(len(earlier), chance.randrange(1, 3)))
            front |= {"deps": f"[{', '.join(deps)}]", "depsMode": chance.choice(("all", "any"))}
        if budgets and chance.random() < 0.7:
            front["budget"] = "{usd: 3}"
        made.append(JobPlan(chance.uniform(2, WORK_S), f"k{number}", product, front))
    return tuple(sorted(made, key=lambda job: int(job.key[1:])))


def _acts(chance: random.Random, jobs: tuple[JobPlan, ...], budgets: bool) -> tuple[Act, ...]:
    acts = []
    for _ in range(chance.randrange(6)):
        job = chance.choice(jobs)
        action = chance.choice(("cancel", "cancel", "requeue", "requeue", "preempt"))
        at_s = job.at_s + chance.uniform(0, 60)
        again_s = chance.choice((None, chance.uniform(1, 30)))
        acts.append(Act(at_s, action, job.product_id, job.key, again_s))
        if action == "cancel" and again_s is not None and chance.random() < 0.7:
            acts.append(Act(at_s + again_s / 2, "requeue", job.product_id, job.key))
    if budgets and chance.random() < 0.6:
        product, at_s = chance.choice(PRODUCTS), chance.uniform(5, 60)
        acts += [Act(at_s, "pause", product), Act(at_s + chance.uniform(5, 40), "resume", product)]
    return tuple(sorted(acts, key=lambda act: act.at_s))


def _faults(
    chance: random.Random,
    coordinators: tuple[CoordinatorPlan, ...],
    factories: tuple[FactoryPlan, ...],
    favours: tuple[str, ...],
) -> tuple[Fault, ...]:
    count = chance.randrange(10, 25) if favours else chance.randrange(3, 15)
    kinds = favours or FAULTS
    faults = [_one_fault(chance.choice(kinds), chance, coordinators, factories) for _ in range(count)]
    return tuple(sorted(faults, key=lambda fault: (fault.at_s, fault.name, fault.on)))


def _one_fault(
    kind: str, chance: random.Random, coordinators: tuple[CoordinatorPlan, ...], factories: tuple[FactoryPlan, ...]
) -> Fault:
    at_s, for_s = chance.uniform(3, TROUBLE_S), chance.uniform(1, 35)
    factory = f"factory:{chance.choice([one.id for one in factories if not one.by_rest_alone])}"
    coordinator = f"coordinator:{chance.choice(coordinators).id}"
    anybody = chance.choice((factory, factory, coordinator))
    share = chance.choice((0.02, 0.1, 0.3))
    match kind:
        case "bus-weather":
            how = {"loss": share, "duplicate": share, "delay_s": chance.choice((0.0, 0.05, 1.5))}
            return Fault(at_s, "bus-weather", "bus", for_s, how)
        case "rest-weather":
            return Fault(at_s, "rest-weather", "rest", for_s, {"loss": share, "delay_s": chance.choice((0.05, 2.0))})
        case "store-weather":
            how = {
                name: share * chance.choice((0.0, 1.0))
                for name in ("throttled", "unavailable", "never", "unheard", "late", "resent")
            }
            return Fault(at_s, "store-weather", coordinator, for_s, how)
        case "late-projections":
            return Fault(at_s, "late-projections", coordinator, for_s)
        case "crash-at-write":
            how = {"writes": float(chance.randrange(1, 30)), "after": float(chance.random() < 0.5)}
            return Fault(at_s, "crash-at-write", coordinator, 0.0, how | {"back_s": chance.uniform(0.5, 15)})
        case "bus-outage":
            return Fault(at_s, "bus-outage", "bus", for_s)
        case "store-outage":
            return Fault(at_s, "store-outage", coordinator, min(for_s, 15.0))
        case "crash":
            return Fault(at_s, "crash", anybody, 0.0, {"back_s": chance.uniform(0.5, 45)})
        case "pause":
            return Fault(at_s, "pause", anybody, for_s * (1.5 if anybody == factory else 0.3))
        case "clock-jump":
            return Fault(at_s, "clock-jump", factory, 0.0, {"by_s": chance.uniform(-100, 100)})
        case "stream-deleted":
            return Fault(at_s, "stream-deleted", "bus")
        case "drain" | "twin" as name:
            return Fault(at_s, name, factory, 0.0, {"back_s": chance.uniform(0.5, 10)})
        case "server-refuses":
            return Fault(at_s, "server-refuses", "remote", for_s)
        case "stray":
            return Fault(at_s, "stray", "rest", 0.0, {"messages": float(chance.randrange(1, 25))})
        case name:  # bus-cut, rest-cut, cut-off, git-trouble, machine-broken
            return Fault(at_s, name, factory if name in ("git-trouble", "machine-broken") else anybody, for_s)


FAULTS = (
    "bus-weather", "bus-weather", "rest-weather", "store-weather", "store-weather", "crash-at-write", "crash-at-write",
    "late-projections",
    "bus-outage", "store-outage", "crash", "crash", "crash", "pause", "pause", "clock-jump", "stream-deleted",
    "drain", "twin", "bus-cut", "rest-cut", "cut-off", "git-trouble", "machine-broken", "machine-broken",
    "server-refuses", "stray", "stray",
)  # fmt: skip
