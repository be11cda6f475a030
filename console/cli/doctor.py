"""What is installed, what is reachable, and what to do about what is not."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import httpx

from console import view
from console.client import HOME, Client, CoordinatorUnreachable, Target
from schemas.errors import FleetError

PYTHON_LEAST = (3, 11)


class Finding(NamedTuple):
    """`ok` None: absent, but nothing that must be there."""

    what: str
    ok: bool | None
    says: str


def _program(name: str, needed: bool, hint: str) -> Finding:
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=beside) or shutil.which(name)
    return Finding(name, True if found else (False if needed else None), found or hint)


def installed() -> list[Finding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    enough = sys.version_info >= PYTHON_LEAST
    return [
        Finding("python", enough, version if enough else f"{version}: install 3.11 or newer"),
        _program("git", True, "install git: every job runs in a worktree"),
        _program("sh", True, "install a POSIX shell: the shell engine and verify need it"),
        _program("nats-server", False, 'absent: pip install "agent-gigafactory[local]", or REST only'),
        *(
            Finding(name, None, f"{shutil.which(name) or 'absent'}: this release runs no jobs with it")
            for name in ("claude", "codex", "devin")
        ),
    ]


def reachable(url: str) -> list[Finding]:
    try:
        answer = httpx.get(f"{url}/readyz", timeout=3.0, trust_env=False)
        ready = answer.json()
        status, store, bus = (str(ready[name]) for name in ("status", "store", "bus"))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return [Finding("coordinator", False, f"{url}: {error}; start one with `gigafactory up`")]
    except (ValueError, KeyError, TypeError):
        return [Finding("coordinator", False, f"{url}: something answers, but no coordinator does")]
    return [
        Finding("coordinator", answer.is_success, f"{url}: {status}"),
        Finding("store", store == "ok", store),
        Finding("bus", True if bus == "ok" else None, bus),
    ]


def accepted(target: Target) -> Finding:
    """Whether the token is one that the coordinator knows; where none answers, only that there is one."""
    client = Client(target)
    try:
        client.get("/api/fleet/factories")
    except FleetError as error:
        return Finding("token", False, f"{error.code}: {error.message}")
    except CoordinatorUnreachable:
        return Finding("token", None, "found; no coordinator answered to it")
    finally:
        client.close()
    return Finding("token", True, "accepted")


def kept_trees(home: Path = HOME) -> list[Finding]:
    """Work of fenced or broken terms, kept for a person to look at."""
    return [Finding("kept", None, _kept(folder)) for folder in sorted(home.glob("factories/*/work/quarantine/*/*"))]


def _kept(folder: Path) -> str:
    """What it is, why it is there, and how it goes."""
    try:
        told = json.loads((folder / "kept.json").read_text(encoding="utf-8"))
        why, at = str(told["why"]), str(told["at"])
    except (OSError, ValueError, KeyError, TypeError):
        why, at = "an older release did not say why", "an unknown time"
    where = folder / "tree" if (folder / "tree").is_dir() else folder
    what = f"job {folder.parent.name}, term {folder.name} on {folder.parents[3].name}, since {at}: {view.plain(why)}"
    look, remove = (shlex.join(words) for words in (("git", "-C", str(where), "status"), ("rm", "-rf", str(folder))))
    return f"{what}. Look: {look}. Done with it: {remove}"


def capabilities(target: Target | None, home: Path = HOME) -> list[Finding]:
    """What a factory finds on this machine, and which of it the factories that live here are not enrolled for."""
    asked = subprocess.run(
        [sys.executable, "-m", "factory.detect"], capture_output=True, text=True, timeout=30.0, check=False
    )
    found = asked.stdout.split()
    says = ", ".join(found) or asked.stderr.strip() or "nothing"
    return [Finding("capabilities", None if found else False, says), *_entitled(target, home, set(found))]


def sandboxes() -> Finding:
    """What of a sandbox works here: without one a job can read whatever its factory's user can."""
    asked = subprocess.run(
        [sys.executable, "-m", "factory.surroundings.sandbox"],
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )
    says = "; ".join(asked.stdout.splitlines()) or asked.stderr.strip()
    works = says.startswith("veil: works")
    hint = "" if works else "; a job can read all that its factory's user can: install bubblewrap"
    return Finding("sandbox", True if works else None, says + hint)


def _entitled(target: Target | None, home: Path, found: set[str]) -> list[Finding]:
    here = {path.name for path in home.glob("factories/*")}
    if target is None or not here:
        return []
    client = Client(target)
    try:
        known = client.get("/api/fleet/factories")["factories"]
    except (FleetError, CoordinatorUnreachable):  # said elsewhere
        return []
    finally:
        client.close()
    findings = []
    for factory in known:
        if factory["id"] in here:
            enrolled = set(factory["enrolledCapabilities"])
            offers, beyond = sorted(factory["capabilities"]), sorted(found - enrolled)
            says = f"offers {', '.join(offers) or 'no capability'}; not enrolled for {', '.join(beyond) or 'no other'}"
            findings.append(Finding(factory["id"], None, says))
    return findings
