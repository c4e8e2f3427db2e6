"""In which order the tests of perfgate itself run, and what they may take."""

import contextlib
import os

import pytest

with contextlib.suppress(ImportError):  # tests/serving, tests/kernels and tests/claims need none
    from hypothesis import settings

    # How long an example takes says how busy the machine is: servers boot beside these tests.
    settings.register_profile("perfgate", deadline=None)
    settings.load_profile("perfgate")


def pytest_configure(config: pytest.Config) -> None:
    """A worker of xdist is told the size of a terminal, by which tables are laid out; without one they are as they are in a file."""
    if hasattr(config, "workerinput"):
        os.environ.pop("COLUMNS", None)
        os.environ.pop("LINES", None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real servers that are only controlled come first, beside tests of kernels, which time nothing.

    Tests that judge what they measure come last: with ``-n`` every other worker has run out of tests by then.
    """

    def place(item: pytest.Item) -> int:
        if item.get_closest_marker("alone") is not None:
            return 2
        return 0 if item.get_closest_marker("e2e") is not None else 1

    items.sort(key=place)
