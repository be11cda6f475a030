"""A fleet whose starter was killed goes on once its factories have ended by themselves."""

from __future__ import annotations

import threading
from pathlib import Path

from deploy.local.fleet import LocalFleet, LocalSettings
from runtime.lockfile import LockFile


def test_a_factory_of_an_earlier_start_is_waited_for_and_that_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    heard = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        heard.set()

    held = LockFile(tmp_path / "factories" / "factory-1" / "factory.lock")
    fleet = LocalFleet(LocalSettings(tmp_path, port=0, bus_port=0), say)
    waiting = threading.Thread(target=fleet.await_earlier, args=("factory-1",))
    waiting.start()
    assert heard.wait(10.0)
    assert waiting.is_alive()
    held.release()
    waiting.join(10.0)
    assert not waiting.is_alive()
    assert len(said) == 1
    assert "factory-1 of an earlier start is ending, as process" in said[0]
    fleet.await_earlier("factory-2")
    assert len(said) == 1
