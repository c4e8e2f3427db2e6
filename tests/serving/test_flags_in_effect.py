"""Is it really running what was asked for? Decided before any load is spent."""

import pytest

from perfgate.server import stale_accepts

pytestmark = pytest.mark.serving


def test_every_flag_is_in_effect(server, server_target, suite):
    """No flag or variable of the server was overridden or ignored, unless its entry accepts that with a reason."""
    reports = server.flags_in_effect()
    for stale in stale_accepts(server.spec, reports):
        suite.announce(f"{server_target.cell.server} {stale}")
    harmful = [report for report in reports if report.harmful]
    if harmful:
        suite.refuse(server_target.cell.server, f"not what was asked for: {'; '.join(map(str, harmful))}")
        pytest.fail("\n".join(map(str, harmful)), pytrace=False)
