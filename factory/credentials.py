"""git's credential helper within a term: it answers only while the term is trusted.

git asks it (`get`) whenever an engine needs a credential. Within trust the machine's own helpers answer, as they would
for its user; after that nobody does, so that a superseded holder cannot push what it still has.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from runtime.clock import SystemClock

TRUST_FILE = "trust"
OWN_CONFIG = "GIT_CONFIG_"


def note_trust(scratch: Path, until_s: float) -> None:
    """Until when the term is trusted, on the clock since boot, for helpers that git starts."""
    part = scratch / f"{TRUST_FILE}.part"
    part.write_text(repr(until_s))
    part.replace(scratch / TRUST_FILE)


def trusted(scratch: Path, now_s: float) -> bool:
    try:
        return now_s < float((scratch / TRUST_FILE).read_text())
    except (OSError, ValueError):
        return False


def helper_env(scratch: Path) -> dict[str, str]:
    """What makes git ask here, and here only, in everything that inherits it."""
    command = f'!"{sys.executable}" -I -m factory.credentials "{scratch}"'
    return {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "credential.helper",
        "GIT_CONFIG_VALUE_0": "",  # an empty one takes back those that were named before
        "GIT_CONFIG_KEY_1": "credential.helper",
        "GIT_CONFIG_VALUE_1": command,
        "GIT_TERMINAL_PROMPT": "0",
    }


def machine_env(env: Mapping[str, str]) -> dict[str, str]:
    """Without our own configuration, so that the machine's helpers are asked."""
    return {name: value for name, value in env.items() if not name.startswith(OWN_CONFIG)}


def main() -> int:
    scratch, action = Path(sys.argv[1]), sys.argv[2]
    if action != "get" or not trusted(scratch, SystemClock().boot_s()):
        return 0  # storing and erasing are the machine's own business; silence makes git fail, not ask
    asked = subprocess.run(
        ["git", "credential", "fill"], stdin=sys.stdin, capture_output=True, env=machine_env(os.environ), check=False
    )
    sys.stdout.buffer.write(asked.stdout)
    return asked.returncode


if __name__ == "__main__":
    sys.exit(main())
