"""Flags in effect, from the command line to the exit status, on a fake vLLM that overrides one."""

import shutil

import pytest

from tests.plugin.conftest import REPOSITORY

SMALL = """
[servers.small]
extends = "fake"
args = { block-size = 8 }

[servers.accepted]
extends = "small"
args = { async-scheduling = true }
accepts = { block-size = "the kernels want 16", async-scheduling = "it was forced once" }
"""


@pytest.fixture
def flags(project):
    """The project with the test of the flags beside that of the baselines, and servers whose block size is overridden."""
    shutil.copy(REPOSITORY / "tests/serving/test_flags_in_effect.py", project.path / "tests")
    with (project.path / "perfgate.toml").open("a") as stream:
        stream.write(SMALL)

    def run(server):
        return project.pytest("--server", server, "--replicates", "1", FAKE_RELEASE="new")

    run.project = project
    return run


def test_an_overridden_flag_fails_before_any_load_is_spent(flags):
    """The test of the flags fails with what runs and the line that says so; the server's cells are INVALID and nothing was sent to it."""
    result = flags("small")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*--block-size 8: overridden, 16 runs (/server_info)",
            "*Setting kv cache block size to 16 instead of 8.",
        ]
    )
    session = flags.project.session()
    assert not session.get("measurements")
    (verdict,) = session["verdicts"]
    assert verdict["outcome"] == "INVALID"
    assert verdict["reason"].startswith("not what was asked for: --block-size 8: overridden, 16 runs")
    (log,) = (flags.project.path / ".perfgate/logs").rglob("*.log")
    assert "/v1/completions" not in log.read_text()


def test_an_accepted_override_passes_and_a_stale_acceptance_is_named(flags):
    """An accepted override is measured, its reason kept and shown; an acceptance that no longer applies is announced and noted."""
    result = flags("accepted")
    result.assert_outcomes(passed=1, failed=1)  # without a baseline the cell itself cannot pass
    result.stdout.fnmatch_lines(
        ["*--block-size 8: overridden, 16 runs (/server_info)*accepted: the kernels want 16*"]
    )
    (measurement,) = flags.project.session()["measurements"]
    kept = {flag["name"]: flag for flag in measurement["boots"][0]["flags"]}
    assert kept["--block-size"]["effect"] == "overridden"
    assert kept["--block-size"]["accepted"] == "the kernels want 16"
    assert kept["--block-size"]["because"].endswith("Setting kv cache block size to 16 instead of 8.")
    stale = "accepts 'async-scheduling', which is honoured here (/server_info): remove it"
    result.stdout.fnmatch_lines([f"*accepted {stale.replace('[', '[[]')}*", f"*note *{stale[:30]}*"])
