"""Real git, asked for a credential inside a term: the machine's helper answers within trust, and nobody after it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from factory.credentials import helper_env, note_trust, trusted
from runtime.clock import SystemClock

ASKED = b"protocol=https\nhost=git.example.invalid\n\n"


def asked(home: Path, control: Path, engines_home: Path | None = None) -> bytes:
    """What git gets inside the term, on a machine whose own helper knows one password."""
    own = '!f() { test "$1" = get && echo username=ann && echo password=s3cret; }; f'
    subprocess.run(["git", "config", "--file", str(home / ".gitconfig"), "credential.helper", own], check=True)
    env = {
        "HOME": str(engines_home or home),
        "PATH": os.environ["PATH"],
        **helper_env(control, str(home)),
        "GIT_ASKPASS": "true",
    }
    return subprocess.run(["git", "credential", "fill"], input=ASKED, capture_output=True, env=env, check=False).stdout


def test_within_trust_the_machines_own_helper_answers(tmp_path: Path) -> None:
    note_trust(tmp_path, SystemClock().boot_s() + 60)
    assert b"password=s3cret" in asked(tmp_path, tmp_path)


def test_an_engine_with_a_home_of_its_own_is_answered_by_the_machines_helper(tmp_path: Path) -> None:
    note_trust(tmp_path, SystemClock().boot_s() + 60)
    own = tmp_path / "own home"
    own.mkdir()
    assert b"password=s3cret" in asked(tmp_path, tmp_path, own)


def test_after_trust_nobody_answers(tmp_path: Path) -> None:
    note_trust(tmp_path, SystemClock().boot_s() - 0.001)
    assert b"s3cret" not in asked(tmp_path, tmp_path)


def test_without_a_word_of_trust_there_is_none(tmp_path: Path) -> None:
    assert not trusted(tmp_path, 0.0)
    (tmp_path / "trust").write_text("soon")
    assert not trusted(tmp_path, 0.0)
