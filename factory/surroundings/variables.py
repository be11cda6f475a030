"""Which of the factory's variables an engine gets: those named here, and those that the operator passes on.

A list of what is kept back would never be complete: what a factory is started with may be anybody's secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from factory.git.environment import OWN, reaches_git

_person = "PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\\w+|TZ|TERM|COLORTERM|TMPDIR|TMP|TEMP|XDG_\\w+|SSH_AUTH_SOCK"
_network = (
    "(?:HTTPS?|FTP|ALL|NO)_PROXY|(?:https?|ftp|all|no)_proxy|SSL_CERT_(?:FILE|DIR)|(?:REQUESTS|CURL|AWS)_CA_BUNDLE"
    "|NODE_EXTRA_CA_CERTS|PIP_CERT"
)
_identity = "GIT_(?:AUTHOR|COMMITTER)_(?:NAME|EMAIL)"
_toolchains = (
    "JAVA_HOME|GO(?:PATH|ROOT|BIN|CACHE|MODCACHE|FLAGS|TOOLCHAIN)|CARGO_HOME|RUSTUP_HOME|NVM_DIR|NVM_BIN|PYENV_ROOT"
    "|RBENV_ROOT|ASDF_\\w+|VIRTUAL_ENV|CONDA_PREFIX|ANDROID_(?:HOME|SDK_ROOT|NDK_HOME)|DOTNET_ROOT|GRADLE_USER_HOME"
    "|M2_HOME|MAVEN_HOME|PNPM_HOME|BUN_INSTALL|DENO_INSTALL|HOMEBREW_(?:PREFIX|CELLAR|REPOSITORY)|NIX_(?:PATH|PROFILES)"
    "|NIX_SSL_CERT_FILE|LD_LIBRARY_PATH|PKG_CONFIG_PATH|CUDA_(?:HOME|PATH|VISIBLE_DEVICES)|DOCKER_HOST"
)
_windows = (
    "SYSTEMROOT|SYSTEMDRIVE|WINDIR|COMSPEC|PATHEXT|APPDATA|LOCALAPPDATA|USERPROFILE|USERNAME|PROGRAMFILES(?:\\(X86\\))?"
    "|PROGRAMDATA|ALLUSERSPROFILE|HOMEDRIVE|HOMEPATH|NUMBER_OF_PROCESSORS|PROCESSOR_\\w+|OS"
)
_passed = re.compile("|".join((_person, _network, _identity, _toolchains, _windows, "__CF_USER_TEXT_ENCODING")))
_name = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?")


def check_pattern(pattern: str) -> str:
    """A variable's name, or how it begins with a `*` behind. Raises ValueError."""
    if not _name.fullmatch(pattern):
        raise ValueError(f"--pass-env {pattern!r}: write the name of a variable, or its beginning and a *")
    if pattern.startswith((*OWN, "GIT_")):
        raise ValueError(f"--pass-env {pattern}: the fleet's own variables, and git's, are never passed on")
    return pattern


def machine_variables(environ: Mapping[str, str], patterns: Sequence[str] = ()) -> dict[str, str]:
    """Of `environ` what an engine may see; `patterns` (see `check_pattern`) add to it."""
    return {name: value for name, value in environ.items() if _is_passed(name, patterns)}


def _is_passed(name: str, patterns: Sequence[str]) -> bool:
    if name.startswith("GIT_"):
        return bool(reaches_git(name) or _passed.fullmatch(name))
    if name.startswith(OWN):
        return False
    return bool(_passed.fullmatch(name)) or any(fnmatchcase(name, pattern) for pattern in patterns)
