"""The machines that the tests of a term's repositories have."""

from __future__ import annotations

from pathlib import Path

import pytest

from factory.workspace.workspaces import Workspaces


@pytest.fixture
def spaces(tmp_path: Path) -> Workspaces:
    return Workspaces(tmp_path / "one", {})


@pytest.fixture
def elsewhere(tmp_path: Path) -> Workspaces:
    """Another machine."""
    return Workspaces(tmp_path / "two", {})
