"""Leaves tests that fetch many vLLM releases out unless they are asked for."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker."""
    config.addinivalue_line(
        "markers", 'releases: fetches many vLLM releases; only with -m "kernels and releases"'
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects, which pytest counts and shows; a skip would look like a gap that somebody knows about."""
    if "releases" in (config.getoption("markexpr") or ""):
        return
    left_out = [item for item in items if item.get_closest_marker("releases") is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
