"""A repository's URL without the user and password in it, and how git is given them all the same."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

_user = re.compile(r"(?<=://)[^/\s@]+@")
_elsewhere = re.compile(r"(https?|ssh|git)://|[^/]+@?[^/]*:")
USER, PASSWORD = "GIGAFACTORY_GIT_USER", "GIGAFACTORY_GIT_PASS"
HELPER = f'!f() {{ test "$1" = get && echo "username=${USER}" && echo "password=${PASSWORD}"; }}; f'


class Reach(NamedTuple):
    """`url`: to be stored, shown and given to an engine. `env`: what a git of the factory's needs to be let in."""

    url: str
    env: dict[str, str]


def reach_of(url: str) -> Reach:
    parts = urlsplit(url) if "://" in url else None
    if parts is None or parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return Reach(url, {})
    host = parts.netloc.rpartition("@")[2]
    env = {
        USER: unquote(parts.username or ""),
        PASSWORD: unquote(parts.password or ""),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"credential.{parts.scheme}://{host}.helper",
        "GIT_CONFIG_VALUE_0": HELPER,
    }
    return Reach(urlunsplit((parts.scheme, host, parts.path, parts.query, "")), env)


def without_passwords(text: str) -> str:
    """Any URL in it without what stands before its host."""
    return _user.sub("", text)


def is_folder(url: str) -> bool:
    """Whether it names a folder of this machine."""
    return url.startswith("file://") or not _elsewhere.match(url)
