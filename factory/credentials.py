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


def note_trust(control: Path, until_s: float) -> None:
    """Until when the term is trusted, on the clock since boot, for helpers that git starts."""
    part = control / f"{TRUST_FILE}.part"
    part.write_text(repr(until_s))
    part.replace(control / TRUST_FILE)


def trusted(control: Path, now_s: float) -> bool:
    try:
        return now_s < float((control / TRUST_FILE).read_text())
    except (OSError, ValueError):
        return False


def helper_env(control: Path, home: str) -> dict[str, str]:
    """What makes git ask here, and here only, in everything that inherits it. `home`: where the machine's helpers look,
    whatever HOME an engine has.
    """
    command = f'!"{sys.executable}" -I -m factory.credentials "{control}" "{home}"'
    return {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "credential.helper",
        "GIT_CONFIG_VALUE_0": "",  # an empty one takes back those that were named before
        "GIT_CONFIG_KEY_1": "credential.helper",
        "GIT_CONFIG_VALUE_1": command,
        "GIT_TERMINAL_PROMPT": "0",
    }


def machine_env(env: Mapping[str, str], home: str) -> dict[str, str]:
    """Without our own configuration, so that the machine's helpers are asked."""
    machine = {name: value for name, value in env.items() if not name.startswith(OWN_CONFIG)}
    return machine | ({"HOME": home} if home else {})


def main() -> int:
    control, home, action = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if action != "get" or not trusted(control, SystemClock().boot_s()):
        return 0  # storing and erasing are the machine's own business; silence makes git fail, not ask
    asked = subprocess.run(
        ["git", "credential", "fill"],
        stdin=sys.stdin,
        capture_output=True,
        env=machine_env(os.environ, home),
        check=False,
    )
    sys.stdout.buffer.write(asked.stdout)
    return asked.returncode


if __name__ == "__main__":
    sys.exit(main())
