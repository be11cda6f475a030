from pathlib import Path

import pytest

from tests.support.rest import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Not enrolled yet: that is done in the test's own loop."""
    return World(tmp_path / "logs")
