"""In which order the tests of perfgate itself run, and what they may take."""

import contextlib

import pytest

with contextlib.suppress(ImportError):  # tests/serving, tests/kernels and tests/claims need none
    from hypothesis import settings

    # How long an example takes says how busy the machine is: servers boot beside these tests.
    settings.register_profile("perfgate", deadline=None)
    settings.load_profile("perfgate")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that judge what they measure come last: with ``-n`` every other worker has run out of tests by then."""
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)
