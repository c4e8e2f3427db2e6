"""In which order the tests of perfgate itself run."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that judge what they measure come last: with ``-n`` every other worker has run out of tests by then."""
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)
