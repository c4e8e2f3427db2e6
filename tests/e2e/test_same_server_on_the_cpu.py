"""The whole gate on a real vLLM on the CPU that nobody changed: five suites, none of which may fail.

pytest -m long tests/e2e/test_same_server_on_the_cpu.py
"""

import pytest
from suite_sessions import Sessions

pytestmark = [pytest.mark.e2e, pytest.mark.long]

SUITES = 5


def test_the_same_server_in_five_suites_is_never_a_regression(tmp_path):
    """Screened against its own baseline of four boots, and confirmed where it is suspected, the same server fails no suite."""
    sessions = Sessions(
        tmp_path,
        *("--gpu", "cpu", "--server", "tiny", "--workload", "cpu-chat", "--workload", "cpu-decode"),
    )
    recorded = sessions.run("--new-baselines", "--replicates", "4")
    assert recorded.status == 0, recorded.said
    assert (sessions.baselines / "cpu" / "noise.json").is_file()
    for _ in range(SUITES):
        suite = sessions.run("--replicates", "2")
        assert len(suite.outcomes) == 2, suite.said
        assert not {"REGRESSION", "INVALID"} & set(suite.outcomes), suite.said
        assert suite.status == 0, suite.said
