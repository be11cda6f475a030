"""The deeds of `deeds.sh`, read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("deeds.sh")

PRELUDE = r"""
say() { printf '%s\n' "$*"; }
make() { mkdir -p "$(dirname "./$1")"; printf 'made in %s by %s\n' "$1" "$GIGAFACTORY_JOB" > "./$1"; }
put() { make "$1"; git add -A -- "./$1"; git commit -q --no-verify -m "$2"; }
readme() { [ -e README.md ] || put README.md "a file to work on"; }
clean() { git add -A && git commit -q --no-verify -m "so far" || true; }
canary=$(env | grep -i canary || true)
[ -z "$canary" ] || say "LEAK $canary"
"""

_head = re.compile(r"^#: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Deed:
    """See `deeds.sh`."""

    name: str
    script: str
    needs: str = ""
    tells: tuple[str, ...] = ()
    last: bool = False


def read(text: str) -> tuple[Deed, ...]:
    parts = _head.split(text)[1:]
    return tuple(_deed(head, script) for head, script in zip(parts[0::2], parts[1::2], strict=True))


def _deed(head: str, script: str) -> Deed:
    name, *words = (word.strip() for word in head.split(";"))
    said = [word.partition("=") for word in words]
    return Deed(
        name=name,
        script=script.strip(),
        needs=next((value for key, _, value in said if key == "needs"), ""),
        tells=tuple(value for key, _, value in said if key == "tells"),
        last="last" in words,
    )


DEEDS = read(FILE.read_text(encoding="utf-8"))
