"""Whatever bytes come: the parts are byte for byte what came, or the refusal says where; nothing is ever made of it."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.errors import ErrorCode, FleetError
from schemas.manifest import MANIFEST_BYTES_MAX, Manifest, ManifestError, parse_manifest

FENCES = st.sampled_from(["---", "--- ", "---\t"])
ENDINGS = st.sampled_from(["\n", "\r\n"])
BODIES = st.text(st.characters(exclude_categories=["Cs"]))
SECONDS_MAX = 20  # a bound on explosions, far above what a slow machine takes for a walk over the text


def with_front(front: str, body: str = "body\n") -> bytes:
    return f"---\nengine: shell\n{front}\n---\n{body}".encode()


def refusal(raw: bytes) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(raw)
    return caught.value


def read_or_refused(raw: bytes) -> Manifest | FleetError:
    """Any other exception is a fault of the parser."""
    try:
        return parse_manifest(raw)
    except FleetError as error:
        return error


@given(FENCES, ENDINGS, st.lists(st.sampled_from(["yolo: true", "x-é: 'ü – 😀'", "# note", ""])), FENCES, BODIES)
@example("---", "\n", [], "---", "\n---\nengine: none\n---\n")
@example("---", "\r\n", [], "---", "a\r\nb\rc\n\x00\x0b\x85\u2028\ufeff")
def test_front_matter_and_body_are_together_byte_for_byte_what_came(
    opening: str, ending: str, lines: list[str], closing: str, body: str
) -> None:
    keys = list(dict.fromkeys(line for line in lines if line))
    front = ending.join([opening, "engine: shell", *keys, closing, ""])
    raw = (front + body).encode()
    manifest = parse_manifest(raw)
    assert (manifest.snapshot, manifest.body) == (front, body)
    assert (manifest.snapshot + manifest.body).encode() == raw
    assert manifest.sha256 == hashlib.sha256(raw).hexdigest()


def test_a_manifest_may_end_with_its_front_matter() -> None:
    manifest = parse_manifest(b"---\nengine: shell\n---")
    assert (manifest.snapshot, manifest.body) == ("---\nengine: shell\n---", "")


def test_dashes_within_a_line_or_longer_than_three_do_not_end_the_front_matter() -> None:
    manifest = parse_manifest(b"---\nengine: shell # ---\ntitle: a---\n---\n----\n")
    assert (manifest.title, manifest.body) == ("a---", "----\n")


@pytest.mark.parametrize(
    "raw", [b"\xef\xbb\xbf---\nengine: shell\n---\nbody\n", b"--- # x\nengine: shell\n--- # y\nbody\n"]
)
def test_a_byte_order_mark_and_comments_behind_the_dashes_are_taken_and_kept(raw: bytes) -> None:
    manifest = parse_manifest(raw)
    assert (manifest.engine, manifest.body) == ("shell", "body\n")
    assert (manifest.snapshot + manifest.body).encode() == raw


@pytest.mark.parametrize(
    "raw",
    [b"", b"engine: shell\n", b"\n---\nengine: shell\n---\n", b"---\nengine: shell\n", b"---\nengine: shell\n --- \n"],
)
def test_front_matter_that_does_not_open_or_close_is_refused(raw: bytes) -> None:
    error = refusal(raw)
    assert "front matter" in error.detail["found"]
    assert "---" in error.detail["allowed"]


@pytest.mark.parametrize("front", ["", "just words", "[a, b]", "--- \nengine: shell"])
def test_front_matter_that_is_no_mapping_is_refused(front: str) -> None:
    assert refusal(f"---\n{front}\n---\n".encode()).detail["line"] >= 1


@pytest.mark.parametrize(
    ("front", "line"),
    [("a: [1", 4), ("a: b: c", 3), ("a: 'open", 4), ("ok: 1\nb: *nowhere", 4), ("a: &x 1\n\tb: 2", 4), ("[a]: b", 3)],
)
def test_broken_yaml_is_refused_with_its_line(front: str, line: int) -> None:
    assert refusal(with_front(front)).detail["line"] == line


def test_a_character_that_yaml_forbids_is_refused_with_its_line() -> None:
    assert refusal(with_front("a: 1\ntitle: bell\x07\n")).detail["line"] == 4


def test_a_manifest_over_256_kib_is_too_large_and_one_of_just_that_is_not() -> None:
    head = b"---\nengine: shell\n---\n"
    assert len(parse_manifest(head + b"x" * (MANIFEST_BYTES_MAX - len(head))).body) == MANIFEST_BYTES_MAX - len(head)
    for size in (MANIFEST_BYTES_MAX + 1, 300 * 1024):
        with pytest.raises(FleetError) as refused:
            parse_manifest(head + b"x" * (size - len(head)))
        assert refused.value.code is ErrorCode.TOO_LARGE
        assert refused.value.detail == {"found": size, "allowed": 256 * 1024}


def test_bytes_that_are_no_utf8_are_refused_with_their_line() -> None:
    error = refusal(b"---\nengine: shell\n---\nok\ncaf\xe9\n")
    assert (error.detail["line"], error.detail["found"]) == (5, "the byte 0xe9")
    assert refusal(b"\xff\xfe-\0-\0-\0").detail["line"] == 1


TAGS = [
    "{key}: !!python/object/apply:os.system ['touch {file}']",
    "{key}: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{file}']]",
    "{key}: !!python/object/new:os.system ['touch {file}']",
    "{key}: !!python/name:os.system",
    "{key}: !!python/object:subprocess.Popen {{args: touch {file}}}",
]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("key", ["title", "verify", "budget", "yolo", "capabilities"])
def test_a_tag_on_a_known_key_makes_nothing_and_is_refused(tag: str, key: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    raw = with_front(tag.format(key=key, file=touched))
    if key == "verify" and "['" in tag and "[!!" not in tag:
        assert parse_manifest(raw).verify == (f"touch {touched}",)  # words in a list, as without the tag
    else:
        assert refusal(raw).detail["line"] == 3
    assert not touched.exists()


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_on_an_unknown_key_makes_nothing(tag: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    assert len(parse_manifest(with_front(tag.format(key="x", file=touched))).warnings) == 1
    assert not touched.exists()


def bomb(depth: int, width: int = 10) -> str:
    layers = ["a0: &a0 [x, x, x]"]
    layers += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, depth)]
    return "\n".join(layers)


def test_an_alias_bomb_has_nothing_to_explode() -> None:
    began = time.process_time()
    assert len(parse_manifest(with_front(bomb(40))).warnings) == 40
    for key in ("deps", "capabilities", "verify", "title", "budget"):
        assert refusal(with_front(f"{bomb(40)}\n{key}: *a39")).detail["key"] == key
    assert time.process_time() - began < SECONDS_MAX


def test_an_alias_stands_for_the_value_that_it_names() -> None:
    manifest = parse_manifest(with_front("x: &caps [python, gpu]\ncapabilities: *caps"))
    assert manifest.capabilities == ("python", "gpu")


@pytest.mark.parametrize("front", ["deps: &a [*a]", "budget: &a {usd: *a}", "retries: &a {max: *a}"])
def test_a_value_that_contains_itself_is_refused(front: str) -> None:
    assert refusal(with_front(front)).detail["line"] == 3


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "a:\n "])
def test_whatever_is_nested_too_deeply_is_refused_or_kept_and_ends_soon(opening: str) -> None:
    began = time.process_time()
    answer = read_or_refused(with_front("x:\n  " + opening * 20_000))
    assert isinstance(answer, ManifestError) or answer.warnings
    assert time.process_time() - began < SECONDS_MAX


@pytest.mark.parametrize(
    "front",
    [
        pytest.param(r'title: "\ud800"', id="a lone surrogate in a value"),
        pytest.param(r'idempotencyKey: "\ud800"', id="a lone surrogate in the key of the submit"),
        pytest.param(r'"\ud800": 1', id="a lone surrogate in a key"),
        pytest.param(r'title: "\U00110000"', id="an escape beyond Unicode"),
        pytest.param(r'title: "\UFFFFFFFF"', id="an escape beyond any character"),
        pytest.param("%YAML 1." + "1" * 5000, id="a version of 5000 digits"),
    ],
)
def test_what_no_text_can_hold_is_refused_as_an_invalid_manifest(front: str) -> None:
    """Neither an unknown exception now, nor a text that can be neither hashed nor stored later."""
    raw = f"---\n{front}\nengine: shell\n---\n".encode()
    assert refusal(raw).code is ErrorCode.INVALID_MANIFEST


YAML_SIGNS = st.text(st.sampled_from("ab01 \n\t:-[]{}#&*!|>'\"%@`,?.~=<\\ué"), max_size=60)


@given(YAML_SIGNS)
def test_any_front_matter_is_either_read_or_refused_with_a_line(front: str) -> None:
    answer = read_or_refused(with_front(front))
    if isinstance(answer, Manifest):
        assert answer.engine == "shell"
    else:
        assert 1 <= answer.detail["line"] <= front.count("\n") + 5


@given(st.binary(max_size=200))
def test_any_bytes_are_either_read_or_refused(noise: bytes) -> None:
    for raw in (noise, b"---\n" + noise, b"---\nengine: shell\n" + noise + b"\n---\n"):
        answer = read_or_refused(raw)
        assert isinstance(answer, Manifest) or answer.code is ErrorCode.INVALID_MANIFEST
