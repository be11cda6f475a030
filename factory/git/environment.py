"""Which of the machine's variables git sees, when the factory runs it and when an engine does.

A factory may be started from a git hook, or with an editor and a password dialog in its environment. Nothing of that
may reach a repository of a job. What an operator set to make git work at all (ssh, proxies, certificates) must.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from factory.git.config import Entry, append_config

IDENTITY = {"NAME": "Agent Gigafactory", "EMAIL": "factory@gigafactory.invalid"}
ASKS_NOBODY = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
}  # empty: git then asks neither core.askPass nor SSH_ASKPASS
NEVER = frozenset({"SSH_ASKPASS", "SSH_ASKPASS_REQUIRE", "GCM_INTERACTIVE"})

GLOBAL = "GIGAFACTORY_GIT_GLOBAL"  # the file with git's global configuration as it was when the factory started
FACTORY = "GIGAFACTORY_FACTORY"  # in the environment of every git that a factory runs: its data folder
OWN = ("GIGAFACTORY_", "AQ_FLEET_", "COSMOS_")  # the factory's own: nothing that it starts needs to know

_passed = re.compile(
    r"GIT_(SSH|SSH_COMMAND|SSH_VARIANT|SSL_\w+|HTTP_\w+|PROXY_COMMAND|CONFIG_(GLOBAL|SYSTEM|NOSYSTEM)|LFS_\w+|EXEC_PATH)"
)


def reaches_git(name: str) -> bool:
    """Whether git may see it: of its own variables those that say how to reach a server."""
    return name not in NEVER and (not name.startswith("GIT_") or bool(_passed.fullmatch(name)))


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if reaches_git(name)}


def factory_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """For a git that the factory runs itself: it never asks, and commits under the factory's name."""
    env = {name: value for name, value in inherited(os.environ).items() if not name.startswith(OWN) or name == FACTORY}
    if (frozen := os.environ.get(GLOBAL)) is not None:  # a job may write to the user's own
        env["GIT_CONFIG_GLOBAL"] = frozen
    for role in ("AUTHOR", "COMMITTER"):
        for name, value in IDENTITY.items():
            env[f"GIT_{role}_{name}"] = value
    env |= ASKS_NOBODY | {
        "SSH_ASKPASS_REQUIRE": "never",
        "GCM_INTERACTIVE": "never",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_EDITOR": ":",
        "LC_ALL": "C",
    }
    if not {"GIT_SSH", "GIT_SSH_COMMAND"} & env.keys() and not _has_ssh_command():
        env["GIT_SSH_COMMAND"] = "ssh -o BatchMode=yes -o ConnectTimeout=30"
    return env | dict(extra or {})


def freeze_global_config(file: Path) -> None:
    """Writes git's global configuration, with what it includes, as one file, and makes the factory's git use that."""
    argv = ["git", "config", "--global", "--includes", "--list", "-z"]
    said = subprocess.run(argv, cwd="/", env=inherited(os.environ), capture_output=True, check=False).stdout
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    append_config(file, [entry for line in os.fsdecode(said).split("\0") if (entry := _entry(line)) is not None])
    os.environ[GLOBAL] = str(file)


def _entry(line: str) -> Entry | None:
    """`section.sub.section.name`, and the value on the next lines; without one it is true."""
    key, newline, value = line.partition("\n")
    section, _, rest = key.partition(".")
    subsection, _, name = rest.rpartition(".")
    if not name or section in ("include", "includeif"):
        return None
    return section, subsection or None, name, value if newline else "true"


@cache
def _has_ssh_command() -> bool:
    """Whether the machine's own configuration says how ssh is to be called."""
    argv = ["git", "config", "--get", "core.sshCommand"]
    return subprocess.run(argv, cwd="/", env=inherited(os.environ), capture_output=True, check=False).returncode == 0
