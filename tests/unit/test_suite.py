"""The session of the suite, as far as it needs no server."""

from pathlib import Path

import pytest

from perfgate.experiment.suite import Suite, SuiteOptions


@pytest.mark.parametrize("workers", [1, 3])
def test_no_two_confirmations_of_a_session_share_a_position(workers):
    """Positions of all workers together are 1, 2, 3 …: each confirmation has its own share of the suite's error."""
    suites = [
        Suite(SuiteOptions(root=Path(), command="pytest", worker=(index, workers)))
        for index in range(workers)
    ]
    positions = [suite._next_position() for _ in range(4) for suite in suites]
    assert sorted(positions) == list(range(1, 4 * workers + 1))


def test_nothing_is_looked_up_before_it_is_needed():
    """Making a session reads no catalogue and asks no GPU."""
    suite = Suite(SuiteOptions(root=Path("/nonexistent"), command="pytest", gpu="no-such-gpu"))
    assert suite.measurements() == ()
    suite.close()
