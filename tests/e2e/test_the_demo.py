"""The demo is the main job on real input, and must end as the README says."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(180)]

LAST = re.compile(r"demo: (\d+)/(\d+) finished, 0 lost, 0 double-held, [1-9]\d* recovered, transports: bus\+rest")


async def test_every_job_ships_while_a_factory_is_killed_and_the_broker_is_away(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "deploy.local.demo"]
    done = await asyncio.to_thread(subprocess.run, argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    last = LAST.fullmatch(done.stdout.strip().splitlines()[-1])
    assert last is not None, done.stdout + done.stderr
    assert last[1] == last[2] == "14"
    assert done.returncode == 0
    assert "explain: No factory offers engine devin." in done.stdout
