"""One process of a machine is a factory, its sessions are counted on disk, and its secrets stay its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from factory.identity import Identity
from runtime.lockfile import AlreadyLocked


def test_a_second_process_of_the_same_factory_is_told_who_holds_it(tmp_path: Path) -> None:
    identity = Identity(tmp_path / "data")
    with pytest.raises(AlreadyLocked) as refused:
        Identity(tmp_path / "data")
    assert refused.value.pid == os.getpid()
    identity.release()
    Identity(tmp_path / "data").release()


def test_another_factory_may_run_beside_it(tmp_path: Path) -> None:
    one, other = Identity(tmp_path / "one"), Identity(tmp_path / "other")
    one.release()
    other.release()


def test_the_number_of_the_last_session_outlives_the_process(tmp_path: Path) -> None:
    identity = Identity(tmp_path)
    assert identity.last_session_no() is None
    identity.remember(7)
    identity.release()
    again = Identity(tmp_path)
    assert again.last_session_no() == 7
    again.release()


@pytest.mark.parametrize("content", ["", "\0\0\0\0", "seven\n"])
def test_a_damaged_counter_is_a_lost_one(tmp_path: Path, content: str) -> None:
    identity = Identity(tmp_path)
    (tmp_path / "session-number").write_text(content)
    assert identity.last_session_no() is None
    identity.release()
