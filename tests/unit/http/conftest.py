from pathlib import Path

import pytest

from tests.support.rest import RestWorld


@pytest.fixture
def world(tmp_path: Path) -> RestWorld:
    """Not enrolled yet: that is done in the test's own loop."""
    return RestWorld(tmp_path / "logs")
