"""What the tests on a GPU find reaches the terminal and the JUnit file."""

import json
import tomllib
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


def test_a_failure_is_reported_although_no_time_was_left_to_save(pytester):
    """With this project's warning filters and --benchmark-autosave, a test that fails before it timed anything still has its report."""
    options = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    filters = json.dumps(options["filterwarnings"])
    pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\nfilterwarnings = {filters}\n")
    pytester.makepyfile("def test_timed(benchmark):\n    raise ValueError('no such kernel')\n")
    result = pytester.runpytest_subprocess("--benchmark-autosave", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ValueError: no such kernel*"])
    assert "Traceback" not in result.stderr.str()
