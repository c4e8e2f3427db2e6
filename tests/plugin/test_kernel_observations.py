"""What the tests on a GPU find reaches the terminal and the JUnit file."""

import xml.etree.ElementTree as ET

from tests.plugin.conftest import REPOSITORY


def test_what_was_found_is_shown_and_kept_in_junit(pytester, monkeypatch):
    """A test's observations stand in the summary and in a JUnit file of pytest's own default family, with warnings as errors."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    pytester.makeconftest('pytest_plugins = ["fixtures.kernels"]')
    pytester.makepyfile(
        """
        def test_cost(observe):
            observe("peak_mib", 12.5)
            observe("agreement", "6 keys agree\\nnone on one side only")
        """
    )
    result = pytester.runpytest_subprocess("--junitxml=junit.xml", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*kernels on this GPU*",
            "peak_mib   12.5",
            "agreement  6 keys agree",
            "           none on one side only",
        ]
    )
    properties = {
        one.get("name"): one.get("value")
        for one in ET.parse(pytester.path / "junit.xml").getroot().iter("property")
    }
    assert properties["perfgate.kernels.peak_mib"] == "12.5"
