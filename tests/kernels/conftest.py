"""Leaves out what was not asked for: many vLLM releases, and with ``--vllm-source`` what is about perfgate and not about that vLLM."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers."""
    config.addinivalue_line(
        "markers", 'releases: fetches many vLLM releases; only with -m "kernels and releases"'
    )
    config.addinivalue_line(
        "markers", "truth: holds perfgate against releases whose answer is known; not with --vllm-source"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects, which pytest counts and shows; a skip would look like a gap that somebody knows about."""
    unasked = [] if "releases" in (config.getoption("markexpr") or "") else ["releases"]
    if config.getoption("--vllm-source") is not None:
        unasked.append("truth")
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in unasked)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
