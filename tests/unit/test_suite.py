"""The session of the suite, as far as it needs no server."""

from pathlib import Path

import pytest

from perfgate.experiment.bench import Positions
from perfgate.experiment.options import SuiteOptions
from perfgate.experiment.suite import Suite


@pytest.mark.parametrize("workers", [1, 3])
def test_no_two_confirmations_of_a_session_share_a_position(workers):
    """Positions of all workers together are 1, 2, 3 …: each confirmation has its own share of the suite's error."""
    counters = [Positions((index, workers)) for index in range(workers)]
    assert [counter.take() for _ in range(4) for counter in counters] == list(range(1, 4 * workers + 1))


def test_nothing_is_looked_up_before_it_is_needed():
    """Making a session reads no catalogue and asks no GPU."""
    suite = Suite(SuiteOptions(root=Path("/nonexistent"), command="pytest", gpu="no-such-gpu"))
    assert suite.measurements() == ()
    suite.close()
