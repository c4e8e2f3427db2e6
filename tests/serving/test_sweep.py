"""What do the values of a flag buy? One test a server; only with --sweep."""

import pytest

pytestmark = pytest.mark.serving


def test_sweep(server_target, run_the_sweep):
    """Every point of the sweep was measured as asked; which of them is better is printed, never judged."""
    run_the_sweep(server_target)
