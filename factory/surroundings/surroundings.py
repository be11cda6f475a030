"""What the programs of one factory's terms see: put together once, applied to each term."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from factory.credentials import helper_env
from factory.git.environment import ASKS_NOBODY
from factory.ports import Place, Worktree
from factory.surroundings.folders import FolderRoots, TermFolders
from factory.surroundings.sandbox import Mode, Sandbox
from schemas.messages import Grant

NOT_OF_A_STRANGER = ("TMPDIR", "TMP", "TEMP", "SSH_AUTH_SOCK")  # they name what a strict sandbox does not have


class SurroundingsError(Exception):
    """The grant asks for what this factory does not give, in a sentence."""


@dataclass(frozen=True)
class Surroundings:
    """`variables`: of the machine. `own_home`: one for each term, also without a strict sandbox."""

    variables: Mapping[str, str]
    folders: FolderRoots
    sandbox: Sandbox | None = None
    own_home: bool = False

    @property
    def mode(self) -> Mode:
        return self.sandbox.mode if self.sandbox is not None else Mode.OFF

    @property
    def place(self) -> Place | None:
        if (sandbox := self.sandbox) is None:
            return None
        return lambda path, tree: sandbox.place(path, tree, self.folders.of(tree.job_id, tree.lease_epoch))

    def prepare(self, grant: Grant, folders: TermFolders) -> None:
        """Raises SurroundingsError, and OSError."""
        if not grant.network and self.mode is not Mode.STRICT:
            raise SurroundingsError(f"network: off needs a strict sandbox, and this factory's is {self.mode}")
        folders.make(home=self.own_home or self.mode is Mode.STRICT)

    def env(self, grant: Grant, folders: TermFolders) -> dict[str, str]:
        strict = self.mode is Mode.STRICT
        env = {**self.variables, **ASKS_NOBODY}
        if strict or self.own_home:
            dropped = NOT_OF_A_STRANGER if strict else ()
            env = {name: value for name, value in env.items() if name not in dropped and not name.startswith("XDG_")}
        if self.own_home and not strict:  # a strict sandbox has its home where the machine has one
            env = _git_config_of(Path(env.get("HOME", "/"))) | env | {"HOME": str(folders.home)}
        return env | {
            "GIGAFACTORY_JOB": grant.job_id,
            "GIGAFACTORY_EPOCH": str(grant.lease_epoch),
            "GIGAFACTORY_ATTEMPT": str(grant.attempt),
            "GIGAFACTORY_SCRATCH": str(folders.scratch),
            **helper_env(folders.control, self.variables.get("HOME", "")),
        }

    def around(self, grant: Grant, tree: Worktree, folders: TermFolders) -> tuple[str, ...]:
        """The words before each command of the term; none where there is no sandbox."""
        return self.sandbox.around(tree, folders, network=grant.network) if self.sandbox is not None else ()


def _git_config_of(home: Path) -> dict[str, str]:
    """git keeps the machine's identity and settings, whatever HOME the engine has."""
    for name in (".gitconfig", ".config/git/config"):
        if (home / name).is_file():
            return {"GIT_CONFIG_GLOBAL": str(home / name)}
    return {}
