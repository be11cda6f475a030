"""The fenced blocks of a job's body that a shell is to run, by the rules of CommonMark (0.31, section 4.5).

A fence ends at one of the same character and at least its length. The first word behind it names the language.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SHELLS = {"sh": "sh", "shell": "sh", "bash": "bash", "zsh": "zsh"}

_opening = re.compile(r"( {0,3})(`{3,}|~{3,})[ \t]*(.*?)[ \t]*")


class ShellBlock(NamedTuple):
    shell: str
    text: str


class OpenBlock(ValueError):
    """A fence that nothing closes: whether what follows is meant to run, nobody can say. `line`: from 1."""

    def __init__(self, line: int) -> None:
        super().__init__(f"the block that begins in line {line} of the body is never closed")
        self.line = line


def shell_blocks(body: str) -> list[ShellBlock]:
    """In order, with `\\n` as line end. Raises OpenBlock for a shell's block without an end."""
    found = []
    lines = re.split(r"\r\n|\n|\r", body)
    at = 0
    while at < len(lines):
        opening = _opening.fullmatch(lines[at])
        begins, at = at, at + 1
        if opening is None or ("`" in opening[2] and "`" in opening[3]):
            continue
        closing = re.compile(rf" {{0,3}}{re.escape(opening[2][0])}{{{len(opening[2])},}}[ \t]*")
        end = next((number for number in range(at, len(lines)) if closing.fullmatch(lines[number])), None)
        shell = SHELLS.get(opening[3].split()[0].lower()) if opening[3] else None
        if shell is not None:
            if end is None:
                raise OpenBlock(begins + 1)
            indent = re.compile(rf"^ {{0,{len(opening[1])}}}")
            found.append(ShellBlock(shell, "".join(f"{indent.sub('', line)}\n" for line in lines[at:end])))
        if end is None:
            break
        at = end + 1
    return found
