"""Entries of a git configuration, appended in one write: `git config` would be a process for each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

Entry = tuple[str, str | None, str, str]  # section, subsection, name, value


def append_config(path: Path, entries: Iterable[Entry]) -> None:
    """Only to the file of a repository that no engine has had."""
    with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
        for section, subsection, name, value in entries:
            head = section if subsection is None else f"{section} {_quoted(subsection)}"
            file.write(f"[{head}]\n\t{name} = {_quoted(value)}\n")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
