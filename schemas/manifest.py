"""A markdown manifest with YAML front matter -> Manifest, or an error that names line, key, found and allowed.

Only the nodes of known keys are ever turned into values, each a scalar, a flat list or a flat mapping, so that
neither a YAML tag nor an alias bomb has anything to act on. `snapshot + body` is byte for byte what came.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

from schemas.errors import ErrorCode, FleetError
from schemas.ids import KEY_LENGTH_MAX, check_name
from schemas.work import TIMEOUT_DEFAULT_S, Budget, Engine, Priority, Request, Retries

MANIFEST_BYTES_MAX = 256 * 1024
BODY_INLINE_MAX = 16 * 1024
LIST_ITEMS_MAX = 64
WARNINGS_MAX = 50
TEXT_LENGTH_MAX = 2000
TITLE_LENGTH_MAX = 120
RETRIES_MAX = 20
REVIEWS_MAX = 20
TIMEOUT_MAX_S = 7 * 24 * 3600.0

YES, NO = frozenset({"true", "yes", "on"}), frozenset({"false", "no", "off"})
UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_duration = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smhd])")
_reaches = re.compile(r"[a-z][a-z0-9+.-]*://|/|[A-Za-z]:[\\/]|[^/~.\s-][^/\s]*:")
_user = re.compile(r"(?<=://)[^\s'\"]*@")
_in_query = re.compile(r"(?<==)[^&\s'\"]+")
_key = re.compile(r"([A-Za-z]\w*)[ \t]*:")
_tells_a_secret = re.compile(
    r"https?://(?:[^/]*@|[^/:]*:(?!\d+(?:/|$))[^@]*@)|[?&][\w-]*(?:token|password|secret|key)=", re.IGNORECASE
)
_fence = re.compile(
    r"\A\ufeff?---[ \t]*(?:#[^\r\n]*)?\r?\n(.*?)(?<![^\n])---[ \t]*(?:#[^\r\n]*)?(?:\r?\n|\Z)", re.DOTALL
)


class Manifest(Request):
    """A parsed manifest; what is absent has its default, `None` where the default depends on more than the manifest."""

    product: str | None = None
    idempotency_key: str | None = None
    snapshot: str
    body: str
    sha256: str
    warnings: tuple[str, ...] = ()


class ManifestError(FleetError):
    """`invalid_manifest`, with the place: line (1-based, in the whole manifest), key, found, allowed."""

    def __init__(self, line: int, key: str | None, found: str, allowed: str) -> None:
        where = f"line {line}" + (f", key '{key}'" if key else "")
        found = found if len(found) <= 80 else found[:77] + "..."
        super().__init__(
            ErrorCode.INVALID_MANIFEST,
            f"{where}: found {found}; allowed is {allowed}",
            line=line,
            key=key,
            found=found,
            allowed=allowed,
        )


class _Value(NamedTuple):
    """A front-matter value with its place, read only in the shape that its key asks for."""

    key: str
    node: yaml.Node
    key_line: int = 0

    @property
    def line(self) -> int:
        return int(self.node.start_mark.line) + 1

    def wrong(self, allowed: str, found: str | None = None) -> ManifestError:
        shapes: dict[type[yaml.Node], str] = {yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping"}
        shape = shapes.get(type(self.node))
        return ManifestError(self.line, self.key, without_secrets(found or shape or repr(self.node.value)), allowed)

    def text(self, allowed: str = f"a text of 1 to {TEXT_LENGTH_MAX} characters") -> str:
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.wrong(allowed)
        value = str(self.node.value)
        if not value.strip() or len(value) > TEXT_LENGTH_MAX or self.node.tag.endswith(":null") or "\0" in value:
            raise self.wrong(allowed)
        if not _is_text(value):
            raise self.wrong(allowed, ascii(value))
        return value

    def checked(self, check: Callable[[str], str], allowed: str) -> str:
        value = self.text(allowed)
        try:
            return check(value)
        except ValueError:
            raise self.wrong(allowed) from None

    def one_of(self, *choices: str) -> str:
        value = self.text(" | ".join(choices))
        if value not in choices:
            raise self.wrong(" | ".join(choices))
        return value

    def flag(self) -> bool:
        word = str(self.node.value).lower() if isinstance(self.node, yaml.ScalarNode) else ""
        if not self.node.tag.endswith(":bool") or word not in YES | NO:
            raise self.wrong("true | false")
        return word in YES

    def whole(self, least: int, most: int) -> int:
        allowed = f"a whole number from {least} to {most}"
        if not re.fullmatch(r"\d{1,12}", self.text(allowed)) or not least <= int(self.node.value) <= most:
            raise self.wrong(allowed)
        return int(self.node.value)

    def amount(self) -> float:
        allowed = "a number of at least 0, such as 2.50"
        if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", self.text(allowed)):
            raise self.wrong(allowed)
        return float(self.node.value)

    def duration_s(self) -> float:
        allowed = f"a duration such as 90s, 15m or 3h, above 0 and at most {TIMEOUT_MAX_S / 86400:g}d"
        match = _duration.fullmatch(self.text(allowed))
        seconds = float(match[1]) * UNIT_S[match[2]] if match else 0.0
        if not 0 < seconds <= TIMEOUT_MAX_S:
            raise self.wrong(allowed)
        return seconds

    def items(self) -> list[_Value]:
        if not isinstance(self.node, yaml.SequenceNode):
            return [self]
        if len(self.node.value) > LIST_ITEMS_MAX:
            raise self.wrong(f"a list of at most {LIST_ITEMS_MAX}", f"a list of {len(self.node.value)}")
        return [_Value(self.key, item) for item in self.node.value]

    def fields(self, *known: str) -> dict[str, _Value]:
        allowed = "a mapping with " + ", ".join(known)
        if not isinstance(self.node, yaml.MappingNode):
            raise self.wrong(allowed)
        values = _mapping(self.node, self.key + ".")
        for name, value in values.items():
            if name not in known:
                raise _Value(value.key, value.node).wrong(", ".join(known), repr(name))
        return values


def _is_text(value: str) -> bool:
    """A lone surrogate is no character: it can be neither hashed nor stored."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mapping(node: yaml.MappingNode, prefix: str = "") -> dict[str, _Value]:
    values: dict[str, _Value] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ManifestError(line, None, "a key that is no plain word", "key: value")
        key = str(key_node.value)
        if not _is_text(key):
            raise ManifestError(line, None, ascii(key), "a key of characters")
        if key in values:
            raise ManifestError(line, prefix + key, "the key a second time", "each key once")
        values[key] = _Value(prefix + key, value_node, line)
    return values


def duration_s(text: str) -> float:
    """`90s`, `15m`, `3h` or `1d` in seconds. Raises ValueError."""
    match = _duration.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no duration: write 90s, 15m or 3h")
    return float(match[1]) * UNIT_S[match[2]]


def _front_matter(text: str) -> tuple[yaml.MappingNode, str, str]:
    match = _fence.match(text)
    if not match:
        opened = text.removeprefix("\ufeff").startswith("---")
        raise ManifestError(
            1,
            None,
            "front matter without its closing line '---'" if opened else "no front matter",
            "a first line '---', YAML keys, a line '---', then the body",
        )
    try:
        # the newline stands for the opening line, so that marks count the manifest's own lines
        node = yaml.compose("\n" + match[1], Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = match[1].count("\n", 0, max(0, error.position - 1)) + 2
        raise ManifestError(line, None, f"the character {error.character!r}", "printable characters") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = mark.line + 1 if mark else 1
        raise ManifestError(line, _key_at(match[1], line), f"broken YAML ({problem})", "YAML keys") from None
    except RecursionError:
        raise ManifestError(1, None, "YAML nested too deeply", "flat keys") from None
    except (ValueError, OverflowError) as error:  # the parser's own, on an escape or a version out of range
        raise ManifestError(1, None, f"broken YAML ({error})", "YAML keys") from None
    if not isinstance(node, yaml.MappingNode):
        raise ManifestError(2, None, "front matter that is no mapping", "YAML keys, 'engine' among them")
    return node, text[: match.end()], text[match.end() :]


def _key_at(front_matter: str, line: int) -> str | None:
    """The key whose value broken YAML is in: on that line of the manifest, or the last one above it."""
    keys = [_key.match(text) for text in front_matter.splitlines()[: max(0, line - 1)]]
    return next((key[1] for key in reversed(keys) if key is not None), None)


def _title(body: str) -> str:
    for line in body.splitlines():
        words = line.strip().lstrip("#").strip()
        if words and not words.startswith("```"):
            return words[:TITLE_LENGTH_MAX]
    return "untitled"


def _check_key(value: str) -> str:
    if len(value) > KEY_LENGTH_MAX:
        raise ValueError
    return value


def _check_repo(value: str) -> str:
    """What means another thing on each machine, or nothing, is a mistake that can be seen here."""
    if not _reaches.match(value) or _tells_a_secret.search(value):
        raise ValueError
    return value


STRICT_SANDBOX = "sandbox-strict"  # the capability of a factory that can do without the network


def without_secrets(text: str) -> str:
    """Any URL in it without what stands before its host and what its query says: no answer repeats a password."""
    if "://" not in text:
        return text
    return _in_query.sub("***", _user.sub("***@", text))


REPO_ALLOWED = (
    "a URL, host:path, or a path that begins with /, without a password: that is for the machine's credential helper"
)
NAME_ALLOWED = "a name of a-z, 0-9, _ and -, at most 32 characters, not 'any'"


def _budget(value: _Value) -> Budget:
    fields = value.fields("usd", "tokens", "wall")
    return Budget(
        usd=fields["usd"].amount() if "usd" in fields else None,
        tokens=fields["tokens"].whole(0, 10**12) if "tokens" in fields else None,
        wall_s=fields["wall"].duration_s() if "wall" in fields else None,
    )


def _retries(value: _Value) -> Retries:
    if isinstance(value.node, yaml.ScalarNode):
        return Retries(max=value.whole(0, RETRIES_MAX))
    fields = value.fields("max", "backoff")
    return Retries(
        max=fields["max"].whole(0, RETRIES_MAX) if "max" in fields else 2,
        backoff_s=fields["backoff"].duration_s() if "backoff" in fields else 30.0,
    )


_READERS: dict[str, tuple[str, Callable[[_Value], Any]]] = {
    "engine": ("engine", lambda v: Engine(v.one_of(*Engine))),
    "product": ("product", lambda v: v.checked(check_name, NAME_ALLOWED)),
    "title": ("title", lambda v: v.text()[:TITLE_LENGTH_MAX]),
    "cwd": ("cwd", lambda v: v.text()),
    "repo": ("repo", lambda v: v.checked(_check_repo, REPO_ALLOWED)),
    "ref": ("ref", lambda v: v.text()),
    "profile": ("profile", lambda v: v.text()),
    "capabilities": ("capabilities", lambda v: tuple(i.checked(check_name, NAME_ALLOWED) for i in v.items())),
    "priority": ("priority", lambda v: Priority(v.one_of(*Priority))),
    "deps": ("deps", lambda v: tuple(i.text("a job id or an idempotencyKey") for i in v.items())),
    "depsMode": ("deps_mode", lambda v: v.one_of("all", "any")),
    "lock": ("lock", lambda v: v.checked(check_name, NAME_ALLOWED)),
    "timeout": ("timeout_s", lambda v: v.duration_s()),
    "idle": ("idle_s", lambda v: v.duration_s()),
    "network": ("network", lambda v: v.one_of("on", "off") == "on"),
    "budget": ("budget", _budget),
    "retries": ("retries", _retries),
    "verify": ("verify", lambda v: tuple(i.text("a shell command") for i in v.items())),
    "review": ("review", lambda v: v.whole(0, REVIEWS_MAX)),
    "ship": ("ship", lambda v: v.one_of("auto", "manual")),
    "yolo": ("yolo", lambda v: v.flag()),
    "idempotencyKey": (
        "idempotency_key",
        lambda v: v.checked(_check_key, f"a text of 1 to {KEY_LENGTH_MAX} characters"),
    ),
}


def _check_idle(values: dict[str, _Value], parsed: dict[str, Any]) -> None:
    timeout_s = parsed.get("timeout_s", TIMEOUT_DEFAULT_S)
    if parsed.get("idle_s", 0.0) > timeout_s:
        allowed = f"at most the timeout, which is {timeout_s:g} s"
        raise ManifestError(values["idle"].line, "idle", f"{parsed['idle_s']:g} s", allowed)


def parse_manifest(raw: bytes) -> Manifest:
    """Raises `ManifestError`, or `too_large` above MANIFEST_BYTES_MAX."""
    if len(raw) > MANIFEST_BYTES_MAX:
        raise FleetError(
            ErrorCode.TOO_LARGE,
            f"the manifest has {len(raw)} bytes; allowed are {MANIFEST_BYTES_MAX} (256 KiB)",
            found=len(raw),
            allowed=MANIFEST_BYTES_MAX,
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ManifestError(line, None, f"the byte 0x{raw[error.start]:02x}", "UTF-8 text") from None
    node, snapshot, body = _front_matter(text)
    values = _mapping(node)
    parsed = {field: read(values[key]) for key, (field, read) in _READERS.items() if key in values}
    if "engine" not in values:
        raise ManifestError(1, "engine", "no such key", " | ".join(Engine))
    if "cwd" in values and ("repo" in values or "ref" in values):
        raise ManifestError(values["cwd"].line, "cwd", "cwd beside repo or ref", "either cwd, or repo with ref")
    if "ref" in values and "repo" not in values:
        raise ManifestError(values["ref"].line, "ref", "a ref without a repo", "ref only beside repo")
    verified = bool(parsed.get("verify"))
    _check_idle(values, parsed)
    parsed.setdefault("review", 0 if verified else 1)
    parsed.setdefault("ship", "auto" if verified and not parsed["review"] else "manual")
    parsed.setdefault("title", _title(body))
    if not parsed.get("network", True):
        parsed["capabilities"] = tuple(dict.fromkeys((*parsed.get("capabilities", ()), STRICT_SANDBOX)))
    unknown = [(key, value) for key, value in values.items() if key not in _READERS]
    warnings = [f"line {value.key_line}: unknown key '{key}' is kept but has no effect" for key, value in unknown]
    return Manifest(
        **parsed,
        snapshot=snapshot,
        body=body,
        sha256=hashlib.sha256(raw).hexdigest(),
        warnings=tuple(warnings[:WARNINGS_MAX]),
    )
