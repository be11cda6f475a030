"""What one seed stands for: a source, machines, jobs with their deeds, and faults. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass

from chaos.edges.deeds import DEEDS, PRELUDE, Deed

MACHINES = ("m1", "m2")
KINDS = ("bare", "bare", "submodule", "folder", "nowhere")
SERVED = 0.25  # of bare sources: by a git server that faults can cut
FAULTS = ("kill", "kill", "damage", "broken-disk", "full-disk", "refuse", "cut")
DEEDS_MAX = 5
VERIFY = {
    "none": (),
    "passes": ("test -f .keep || test -e README.md || true",),
    "leaves": ("mkdir -p build && echo left > build/by-verify",),
    "changes": ("echo changed by verify > README.md",),
}


@dataclass(frozen=True)
class JobPlan:
    """`fails`: so many of its first attempts end with an error of its own. `verify`: a key of VERIFY."""

    name: str
    deeds: tuple[Deed, ...]
    fails: int
    retries: int
    verify: str
    last_s: float

    def manifest(self, where: str, tells_evil: str, secret: str) -> bytes:
        """`where`: the lines that say where it works. `secret`: a file that it must not be able to read."""
        verify = "".join(f"\n  - {command}" for command in VERIFY[self.verify])
        front = [
            "engine: shell",
            *([where] if where else []),
            f"retries: {{max: {self.retries}, backoff: 0.1s}}",
            "review: 0",
            "ship: auto",
            "timeout: 60s",
            *([f"verify:{verify}"] if verify else []),
        ]
        return "\n".join(
            ["---", *front, "---", f"The deeds of {self.name}.", "", self._body(tells_evil, secret)]
        ).encode()

    def _body(self, evil: str, secret: str) -> str:
        """In a term that goes on from another's work a deed may find no room: only a first one must do them all."""
        script = [PRELUDE, f"EVIL={evil}", f"cat {secret} 2> /dev/null && say LEAK a secret file"]
        script.append('cat "$GIGAFACTORY_SCRATCH"/../../../secrets/* 2> /dev/null && say LEAK by the scratch folder')
        for at, deed in enumerate(self.deeds):
            text = deed.script.replace("@N@", f"{self.name}-{at}-@E@")
            script.append(f"say '-- {deed.name}'\n(\nset -e\n{text}\n) || failed {deed.name}")
        script += [
            f"sleep {self.last_s:.2f}",
            f'[ "$GIGAFACTORY_ATTEMPT" -gt {self.fails} ] || exit 3',
            'rm -f "$EVIL"-*',
        ]
        whole = "\n".join(script)
        return (
            "````sh\nset +e\n"
            'failed() { if [ "$GIGAFACTORY_EPOCH" = 1 ]; then echo "FAILED $1"; exit 9; fi; }\n'
            "cat > \"$GIGAFACTORY_SCRATCH/deeds\" <<'DEEDS'\n"
            'failed() { if [ "$GIGAFACTORY_EPOCH" = 1 ]; then echo "FAILED $1"; exit 9; fi; }\n'
            f"{whole}\nDEEDS\n"
            'sed "s/@E@/$GIGAFACTORY_EPOCH/g" "$GIGAFACTORY_SCRATCH/deeds" > "$GIGAFACTORY_SCRATCH/deeds.sh"\n'
            'sh "$GIGAFACTORY_SCRATCH/deeds.sh"\nexit $?\n````\n'
        )


@dataclass(frozen=True)
class Fault:
    """`on`: a machine, where it is one's own. `at_s`: from when the jobs are submitted."""

    name: str
    at_s: float
    on: str
    amount: float


@dataclass(frozen=True)
class EdgePlan:
    seed: int
    kind: str
    served: bool
    jobs: tuple[JobPlan, ...]
    faults: tuple[Fault, ...]


def plan_of(seed: int, *, has_lfs: bool, favours: tuple[str, ...] = ()) -> EdgePlan:
    """`favours`: deeds and faults that are wanted in it."""
    chance = random.Random(f"edges {seed}")
    kind = "submodule" if any(name.startswith("submodule") for name in favours) else chance.choice(KINDS)
    served = kind == "bare" and ("cut" in favours or chance.random() < SERVED)
    have = {"submodule"} if kind == "submodule" else set()
    have |= {"push"} if kind in ("bare", "submodule") else set()
    have |= {"lfs"} if has_lfs and not served and kind == "bare" else set()
    may = [deed for deed in DEEDS if not deed.needs or deed.needs in have]
    wanted = [deed for deed in may if deed.name in favours]
    failing = "fails" in favours
    jobs = tuple(
        _job(chance, f"j{number}", may, wanted, failing=failing) for number in range(1, chance.choice((2, 2, 2, 3)) + 1)
    )
    return EdgePlan(seed, kind, served, jobs, _faults(chance, kind, served, favours))


def _job(chance: random.Random, name: str, may: list[Deed], wanted: list[Deed], *, failing: bool) -> JobPlan:
    deeds = [*wanted, *chance.sample(may, chance.randrange(1, DEEDS_MAX + 1))]
    last = [deed for deed in deeds if deed.last][:1]
    in_order = (*dict.fromkeys(deed for deed in deeds if not deed.last), *last)
    fails = 1 if failing else chance.choice((0, 0, 0, 0, 1, 2))
    return JobPlan(
        name=name,
        deeds=in_order,
        fails=fails,
        retries=fails if failing or chance.random() < 0.7 else 0,
        verify=chance.choice(tuple(VERIFY)),
        last_s=chance.choice((0.0, 0.0, 0.2, 0.5)),
    )


def _faults(chance: random.Random, kind: str, served: bool, favours: tuple[str, ...]) -> tuple[Fault, ...]:
    kinds = [name for name in FAULTS if name in favours] or list(FAULTS)
    count = 2 if any(name in FAULTS for name in favours) else chance.choice((0, 0, 1, 1, 2, 3))
    made = []
    for _ in range(count):
        name = chance.choice(kinds)
        if (name == "cut" and not served) or (name in ("refuse", "damage") and kind in ("nowhere", "folder")):
            continue
        latest_s = 0.3 if name == "refuse" else 1.2  # it lasts, and is to be there when something is published
        made.append(Fault(name, chance.uniform(0.0, latest_s), chance.choice(MACHINES), chance.random()))
    return tuple(sorted(made, key=lambda fault: fault.at_s))
