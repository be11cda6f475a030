"""Every key of a manifest: what is taken, and what is refused with line, key, found and allowed."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.errors import ErrorCode
from schemas.manifest import Manifest, ManifestError, parse_manifest
from schemas.work import Budget, Engine, Priority, Retries

P2_FRONT_MATTER = """\
---
engine: devin
cwd: /Users/sd9235/code/mygh/learning_ai_common_plat
yolo: true
lock: common-plat
timeout: 3h
---
"""


def parsed(*lines: str, engine: str = "engine: shell", body: str = "do it\n") -> Manifest:
    """A manifest with `engine` on line 2 and `lines` from line 3 on."""
    return parse_manifest("\n".join(["---", engine, *lines, "---", body]).encode())


def refused(*lines: str, engine: str = "engine: shell") -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        parsed(*lines, engine=engine)
    assert caught.value.code is ErrorCode.INVALID_MANIFEST
    return caught.value


GOOD: list[tuple[str, str, Any]] = [
    ("product: shop", "product", "shop"),
    ("title: 'Fix: the claim'", "title", "Fix: the claim"),
    ("title: 42", "title", "42"),
    ("cwd: /home/ann/shop", "cwd", "/home/ann/shop"),
    ("repo: git@example.com:shop.git", "repo", "git@example.com:shop.git"),
    ("repo: host:shop", "repo", "host:shop"),
    ("repo: ssh://git@host/shop", "repo", "ssh://git@host/shop"),
    ("repo: /srv/git/shop", "repo", "/srv/git/shop"),
    ("repo: C:/src/shop", "repo", "C:/src/shop"),
    ("idle: 10m", "idle_s", 600.0),
    ("profile: backend@3", "profile", "backend@3"),
    ("capabilities: [python, gpu]", "capabilities", ("python", "gpu")),
    ("capabilities: python", "capabilities", ("python",)),
    ("capabilities: []", "capabilities", ()),
    ("priority: critical", "priority", Priority.CRITICAL),
    ("priority: low", "priority", Priority.LOW),
    ("deps: [first, Second Key]", "deps", ("first", "Second Key")),
    ("deps: first", "deps", ("first",)),
    ("depsMode: any", "deps_mode", "any"),
    ("lock: common-plat", "lock", "common-plat"),
    ("timeout: 90s", "timeout_s", 90),
    ("timeout: 15m", "timeout_s", 900),
    ("timeout: 3h", "timeout_s", 10800),
    ("timeout: 7d", "timeout_s", 604800),
    ("timeout: 1.5h", "timeout_s", 5400),
    ("budget: {usd: 2.50, tokens: 1000000, wall: 2h}", "budget", Budget(usd=2.5, tokens=1_000_000, wall_s=7200)),
    ("budget: {usd: 0}", "budget", Budget(usd=0)),
    ("retries: 5", "retries", Retries(max=5)),
    ("retries: 0", "retries", Retries(max=0)),
    ("retries: {max: 3, backoff: 2m}", "retries", Retries(max=3, backoff_s=120)),
    ("retries: {backoff: 90s}", "retries", Retries(max=2, backoff_s=90)),
    ("verify: make test", "verify", ("make test",)),
    ("verify: [make lint, make test]", "verify", ("make lint", "make test")),
    ("verify: |\n  make lint\n  make test", "verify", ("make lint\nmake test\n",)),
    ("review: 3", "review", 3),
    ("ship: auto", "ship", "auto"),
    ("yolo: true", "yolo", True),
    ("yolo: off", "yolo", False),
    ("idempotencyKey: nightly 2030-01-01", "idempotency_key", "nightly 2030-01-01"),
]


@pytest.mark.parametrize(("line", "field", "value"), GOOD, ids=[line for line, _, _ in GOOD])
def test_a_good_value_is_taken(line: str, field: str, value: Any) -> None:
    manifest = parsed(line)
    assert getattr(manifest, field) == value
    assert manifest.warnings == ()


@pytest.mark.parametrize("engine", Engine)
def test_each_engine_can_be_named(engine: Engine) -> None:
    assert parsed(engine=f"engine: {engine}").engine is engine


NAME = "a name of a-z, 0-9, _ and -"
WAIT = "a duration such as 90s, 15m or 3h"
TEXT = "a text of 1 to 2000 characters"
REPO = "a URL, host:path, or a path that begins with /"
BAD: list[tuple[str, str, str, str]] = [  # the line, the key as named, what was found, what is allowed
    ("product: Shop", "product", "'Shop'", NAME),
    ("product: any", "product", "'any'", NAME),
    (f"product: {'p' * 33}", "product", f"'{'p' * 33}'", NAME),
    ("title: [a]", "title", "a list", TEXT),
    ("title: ''", "title", "''", TEXT),
    ("title: ~", "title", "'~'", TEXT),
    ("cwd: {a: b}", "cwd", "a mapping", TEXT),
    ("cwd:", "cwd", "''", TEXT),
    ("repo: [a]", "repo", "a list", REPO),
    ('repo: "a\\0b"', "repo", "'a\\x00b'", REPO),
    ("ref: []", "ref", "a list", TEXT),
    ("profile: '  '", "profile", "'  '", TEXT),
    (f"profile: {'x' * 2001}", "profile", "...", TEXT),
    ("capabilities: [Python]", "capabilities", "'Python'", NAME),
    ("capabilities: [a, any]", "capabilities", "'any'", NAME),
    ("capabilities: {a: b}", "capabilities", "a mapping", NAME),
    (f"capabilities: [{', '.join(['a'] * 65)}]", "capabilities", "a list of 65", "a list of at most 64"),
    ("priority: urgent", "priority", "'urgent'", "critical | high | normal | low"),
    ("deps: [[a]]", "deps", "a list", "a job id or an idempotencyKey"),
    ("deps: ['']", "deps", "''", "a job id or an idempotencyKey"),
    ("depsMode: some", "depsMode", "'some'", "all | any"),
    ("lock: 'a b'", "lock", "'a b'", NAME),
    ("lock: a/b", "lock", "'a/b'", NAME),
    ("timeout: 3600", "timeout", "'3600'", WAIT),
    ("timeout: 0s", "timeout", "'0s'", WAIT),
    ("timeout: -1h", "timeout", "'-1h'", WAIT),
    ("timeout: 8d", "timeout", "'8d'", "at most 7d"),
    ("timeout: 3 h", "timeout", "'3 h'", WAIT),
    ("budget: 5", "budget", "'5'", "a mapping with usd, tokens, wall"),
    ("budget: {usd: -1}", "budget.usd", "'-1'", "a number of at least 0"),
    ("budget: {usd: .inf}", "budget.usd", "'.inf'", "a number of at least 0"),
    ("budget: {usd: .nan}", "budget.usd", "'.nan'", "a number of at least 0"),
    ("budget: {tokens: 1.5}", "budget.tokens", "'1.5'", "a whole number"),
    ("budget: {wall: long}", "budget.wall", "'long'", WAIT),
    ("budget: {eur: 5}", "budget.eur", "'eur'", "usd, tokens, wall"),
    ("budget: {usd: 1, usd: 2}", "budget.usd", "the key a second time", "each key once"),
    ("retries: many", "retries", "'many'", "a whole number from 0 to 20"),
    ("retries: 21", "retries", "'21'", "a whole number from 0 to 20"),
    ("retries: [2]", "retries", "a list", "a mapping with max, backoff"),
    ("retries: {max: -1}", "retries.max", "'-1'", "a whole number from 0 to 20"),
    ("retries: {backoff: 0s}", "retries.backoff", "'0s'", WAIT),
    ("retries: {limit: 1}", "retries.limit", "'limit'", "max, backoff"),
    ("verify: ['']", "verify", "''", "a shell command"),
    ("verify: {run: make}", "verify", "a mapping", "a shell command"),
    ("review: yes", "review", "'yes'", "a whole number from 0 to 20"),
    ("review: -1", "review", "'-1'", "a whole number from 0 to 20"),
    ("ship: true", "ship", "'true'", "auto | manual"),
    ("yolo: maybe", "yolo", "'maybe'", "true | false"),
    ("yolo: 'true'", "yolo", "'true'", "true | false"),
    ("yolo: 1", "yolo", "'1'", "true | false"),
    ("yolo: !!bool maybe", "yolo", "'maybe'", "true | false"),
    ("yolo: [true]", "yolo", "a list", "true | false"),
    ("idempotencyKey: ''", "idempotencyKey", "''", "a text of 1 to 200 characters"),
    (f"idempotencyKey: {'k' * 201}", "idempotencyKey", "...", "a text of 1 to 200 characters"),
    ("engine: claude", "engine", "the key a second time", "each key once"),
]


@pytest.mark.parametrize(("line", "key", "found", "allowed"), BAD, ids=[line[:40] for line, _, _, _ in BAD])
def test_a_bad_value_is_refused_with_line_key_found_and_allowed(line: str, key: str, found: str, allowed: str) -> None:
    error = refused("# a comment", "", line)
    assert (error.detail["line"], error.detail["key"]) == (5, key)
    assert found in error.detail["found"]
    assert allowed in error.detail["allowed"]
    for part in ("line 5", f"key '{key}'", error.detail["found"], error.detail["allowed"]):
        assert part in error.message


@pytest.mark.parametrize("engine", ["engine: gpt", "engine:", "engine: [claude]", "engine: Claude"])
def test_an_engine_that_is_none_is_refused_with_the_four_there_are(engine: str) -> None:
    error = refused(engine=engine)
    assert (error.detail["line"], error.detail["key"]) == (2, "engine")
    assert error.detail["allowed"] == "claude | codex | devin | shell"


def test_a_manifest_must_name_its_engine() -> None:
    error = refused(engine="title: none")
    assert (error.detail["key"], error.detail["found"]) == ("engine", "no such key")


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        (["cwd: /a", "repo: /b"], "cwd"),
        (["cwd: /a", "repo: /b", "ref: c"], "cwd"),
        (["title: a", "ref: main"], "ref"),
    ],
)
def test_work_lies_at_a_path_or_in_a_repo_at_a_ref(lines: list[str], key: str) -> None:
    error = refused(*lines)
    assert error.detail["key"] == key
    assert lines[error.detail["line"] - 3].startswith(key)


def test_neither_cwd_nor_repo_means_an_empty_scratch_tree() -> None:
    manifest = parsed()
    assert (manifest.cwd, manifest.repo, manifest.ref) == (None, None, None)


def test_lines_are_counted_the_same_with_crlf() -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(b"---\r\nengine: shell\r\n\r\nyolo: 5\r\n---\r\nbody\r\n")
    assert caught.value.detail["line"] == 4


@pytest.mark.parametrize(
    ("lines", "review", "ship"),
    [
        ([], 1, "manual"),
        (["review: 0"], 0, "manual"),
        (["review: 2"], 2, "manual"),
        (["verify: make test"], 0, "auto"),
        (["verify: []"], 1, "manual"),
        (["verify: make test", "review: 0"], 0, "auto"),
        (["verify: make test", "review: 1"], 1, "manual"),
        (["verify: make test", "ship: manual"], 0, "manual"),
        (["verify: make test", "review: 2", "ship: auto"], 2, "auto"),
        (["ship: auto"], 1, "auto"),
    ],
)
def test_review_and_ship_follow_from_verify_unless_they_are_written(lines: list[str], review: int, ship: str) -> None:
    manifest = parsed(*lines)
    assert (manifest.review, manifest.ship) == (review, ship)


def test_what_is_absent_has_the_specs_default() -> None:
    manifest = parsed()
    assert manifest.retries == Retries(max=2, used=0, backoff_s=30)
    assert manifest.budget == Budget(usd=None, tokens=None, wall_s=None)
    assert (manifest.priority, manifest.deps_mode, manifest.yolo) == (Priority.NORMAL, "all", False)
    assert (manifest.product, manifest.idempotency_key, manifest.lock) == (None, None, None)
    assert (manifest.capabilities, manifest.deps, manifest.verify) == ((), (), ())


def test_unknown_keys_are_kept_and_warned_of_with_their_line() -> None:
    manifest = parsed("color: blue", "nested: {deep: [1, {a: b}]}")
    assert "color: blue\nnested: {deep: [1, {a: b}]}\n" in manifest.snapshot
    assert [warning.split(":")[0] for warning in manifest.warnings] == ["line 3", "line 4"]
    assert "'color'" in manifest.warnings[0]
    assert "'nested'" in manifest.warnings[1]


def test_the_line_of_an_unknown_key_is_its_own_and_not_that_of_what_is_below_it() -> None:
    (warning,) = parsed("nested:", "  deep: 1").warnings
    assert warning.startswith("line 3:")


@pytest.mark.parametrize(
    ("body", "title"),
    [
        ("ROLE: engineer\nmore\n", "ROLE: engineer"),
        ("\n\n## Fix the claim ##\n", "Fix the claim ##"),
        ("```\ncode\n```\n", "code"),
        ("", "untitled"),
        ("   \n#\n", "untitled"),
        ("x" * 500, "x" * 120),
    ],
)
def test_the_title_is_the_bodys_first_words_where_none_is_given(body: str, title: str) -> None:
    assert parsed(body=body).title == title


def test_the_seeds_own_manifest_is_accepted_as_it_stands() -> None:
    body = "\nROLE: Senior engineer. Make the claim ATOMIC — `rev` → `_etag`.\n\n---\n\nDELIVERABLES\n---\n1. all\n"
    manifest = parse_manifest((P2_FRONT_MATTER + body).encode())
    assert manifest.engine is Engine.DEVIN
    assert manifest.cwd == "/Users/sd9235/code/mygh/learning_ai_common_plat"
    assert (manifest.yolo, manifest.lock, manifest.timeout_s) == (True, "common-plat", 3 * 3600)
    assert (manifest.review, manifest.ship, manifest.warnings) == (1, "manual", ())
    assert (manifest.snapshot, manifest.body) == (P2_FRONT_MATTER, body)
    assert manifest.title.startswith("ROLE: Senior engineer.")


@pytest.mark.parametrize(
    "url",
    [
        "http://bot:S3CRET@127.0.0.1:1/x.git",
        "https://S3CRET@host/x.git",
        "http://bot:S3CRET/@127.0.0.1:1/x.git",
        "http://127.0.0.1:1/x.git?access_token=S3CRET",
        "https://host/x.git?a=b&private-token=S3CRET",
    ],
)
def test_a_refusal_does_not_repeat_a_password(url: str) -> None:
    with pytest.raises(ManifestError) as refused:
        parse_manifest(f"---\nengine: shell\nrepo: {url}\n---\nbody\n".encode())
    assert "S3CRET" not in str(refused.value) + str(refused.value.detail)
    assert "***" in str(refused.value)


@pytest.mark.parametrize("text", ["retries:\n\tmax: 2", "retries: \t@", "verify: [a, b", "title: x\nverify:\n  - 'a"])
def test_broken_yaml_is_told_with_the_key_that_it_is_in(text: str) -> None:
    with pytest.raises(ManifestError) as refused:
        parse_manifest(f"---\nengine: shell\n{text}\n---\nbody\n".encode())
    assert f"key '{'verify' if 'verify' in text else 'retries'}'" in str(refused.value)


def test_a_job_without_a_network_needs_a_strict_sandbox() -> None:
    manifest = parse_manifest(b"---\nengine: shell\nnetwork: off\ncapabilities: [docs]\n---\nbody\n")
    assert not manifest.network
    assert manifest.capabilities == ("docs", "sandbox-strict")
    assert parse_manifest(b"---\nengine: shell\nnetwork: on\n---\nbody\n").capabilities == ()


@pytest.mark.parametrize(
    "url", ["https://host:8080/a@b/x.git", "https://host/x@2.git", "git@host:team/x.git", "/srv/a@b.git"]
)
def test_an_at_that_is_no_password_is_none(url: str) -> None:
    assert parse_manifest(f"---\nengine: shell\nrepo: {url}\n---\nbody\n".encode()).repo == url
