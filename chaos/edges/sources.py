"""The repositories that jobs of a seed work on, made anew for each."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

REFUSES = """#!/bin/sh
while read -r old new ref; do
  case "$ref" in refs/heads/fleet/*) echo "POLICY-7: no branches of the fleet" >&2; exit 1;; esac
done
"""


@dataclass(frozen=True)
class Source:
    """`path`: as jobs name it. `git_dir`: where its refs are. `origins`: the git directories of its submodules'."""

    kind: str
    path: Path
    git_dir: Path
    origins: tuple[Path, ...] = ()

    def refuse(self, refused: bool) -> None:
        hook = self.git_dir / "hooks" / "pre-receive"
        hook.parent.mkdir(exist_ok=True)
        part = hook.with_suffix(".part")
        part.write_text(REFUSES if refused else "#!/bin/sh\nexit 0\n")
        part.chmod(0o755)
        part.replace(hook)  # a push may be at it


def run(where: Path, *argv: str) -> str:
    who = {
        "GIT_AUTHOR_NAME": "Ann",
        "GIT_AUTHOR_EMAIL": "ann@example.invalid",
        "GIT_COMMITTER_NAME": "Ann",
        "GIT_COMMITTER_EMAIL": "ann@example.invalid",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(["git", *argv], cwd=where, env=clean | who, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def make(kind: str, folder: Path) -> Source | None:
    """None: jobs work in trees without a repository."""
    if kind == "nowhere":
        return None
    made = folder / "made"
    made.mkdir(parents=True)
    run(made, "init", "-q", "--initial-branch=main")
    for name in ("README.md", "docs/guide.md", "src/main.py", "keep/one"):
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(f"{name} of the source\n" * 20)
    origins: tuple[Path, ...] = ()
    if kind == "submodule":
        origins = (_submodule(folder, made),)
    run(made, "add", "--all")
    run(made, "commit", "-q", "-m", "the beginning")
    run(made, "tag", "v1.0")
    run(made, "branch", "other")
    if kind == "folder":
        (made / "README.md").write_text("a person is at work here\n")
        (made / "untracked").write_text("and here\n")
        return Source(kind, made, made / ".git")
    bare = folder / "source.git"
    run(folder, "clone", "-q", "--bare", str(made), str(bare))
    return Source(kind, bare, bare, origins)


def _submodule(folder: Path, made: Path) -> Path:
    lib = folder / "lib"
    lib.mkdir()
    run(lib, "init", "-q", "--initial-branch=main")
    (lib / "code.txt").write_text("of the submodule\n")
    run(lib, "add", "--all")
    run(lib, "commit", "-q", "-m", "a library")
    run(folder, "clone", "-q", "--bare", str(lib), "lib.git")
    run(made, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(folder / "lib.git"), "lib")
    return folder / "lib.git"
