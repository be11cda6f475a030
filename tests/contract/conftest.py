"""Tests of a real Azure account run where one is named, and are left out, not skipped, where none is."""

import os

import pytest

ACCOUNT = ("COSMOS_ENDPOINT", "COSMOS_KEY")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if all(os.environ.get(name) for name in ACCOUNT):
        return
    away = [item for item in items if item.get_closest_marker("cosmos_account")]
    if away:
        config.hook.pytest_deselected(items=away)
        items[:] = [item for item in items if item not in away]
